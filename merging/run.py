"""Composition root of merging: from a configuration to networks, their fusion, and its results beside the baselines.

Networks are trained by the same code as any other run, and lie in the same folders: what is there is not trained again.
"""

import copy
import math
import time
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call

from cl.build import build
from cl.configuration.identity import as_text, config_hash, words
from cl.configuration.settings import MERGE_KEYS
from cl.reporting import plots, results
from cl.reporting.history import History
from cl.run import experiment
from cl.run.experiment import Components
from cl.run.folder import benchmark_name, check_writable, finished_run, other_version, plain
from cl.scenarios.base import Tasks
from cl.values import did_you_mean
from merging import sources
from merging.context import MergeContext
from merging.curve import pictures
from merging.fusion import Fusion, Models, State, WeightFusion, no_initial

CONF = Path(__file__).resolve().parent.parent / "conf"


def run(config) -> list[Path]:
    """Merge what the configuration (OmegaConf) describes; returns the folders of baselines and, last, of the result.

    Whatever is wrong is said before anything is trained or data are loaded, as far as configuration and files tell.
    """
    config = plain(config)
    own = {key: config[key] for key in MERGE_KEYS}
    base = {key: value for key, value in config.items() if key not in MERGE_KEYS}
    fusion = _check(own, base)
    if _starts_merged(base):  # then the networks are others with each fusion
        options = {key: own[key] for key in ("weighting", "running", "finetune_samples", "finetune_epochs")}
        base["strategy"] = base["strategy"] | {"fusion": _seedless(own["fusion"]) | options}
    with closing(experiment.compose(base)) as parts:
        return _run(fusion, own, base, parts, merge_folder(config))


def _run(fusion: Fusion, own: dict, base: dict, parts: Components, folder: Path) -> list[Path]:
    if parts.scenario.targets:
        raise ValueError(
            f"networks are merged by what they classify, and scenario={base['scenario']['name']} has no labels"
        )
    baselines = [(name, _with_strategy(base, name)) for name in own["baselines"]]
    for _, baseline in baselines:
        experiment.compose(baseline).close()
    check_writable(folder)
    reader = sources.Reader(base, parts, fusion.unequal_widths and own["checkpoints"] is not None)
    merged_before = (folder / "results.json").is_file() and not base["overwrite"]
    if not merged_before:
        check_merge(fusion, own, base, parts, reader)
    finished = [_train(baseline) for _, baseline in baselines]
    if merged_before:
        print(f"finished before: {folder}{other_version(folder)}  (overwrite=true merges anew)")
        return [*finished, folder]
    tasks, _ = experiment.load_tasks(base, parts)
    source = _find_models(fusion, own, base, parts, reader)
    source.num_samples = [tasks.num_training(of_network) for of_network in source.tasks]
    parts.logger.start(folder, base | own)
    content = _merge(fusion, own, base, parts, tasks, source, folder)
    results.write_json(folder / "results.json", content)
    parts.logger.finish(content)
    alone = "  ".join(f"{100 * value:.2f}" for value in content["model_accuracies"])
    print(f"{own['fusion']['name']} of {len(source.states)} networks, which reach alone: {alone} %")
    with plots.after_results(folder):
        plots.draw_run(folder, content, base["pictures"])
        if "t" in content.get("curve", {}):
            title = f"{own['fusion']['kind']} between networks, {base['scenario']['name']} on {base['dataset']['name']}"
            pictures.draw_curve(folder, content["curve"], title, base["pictures"])
    return [*finished, folder]


def merge_folder(config: dict) -> Path:
    """The folder of a merged network: a function of the configuration, beside the runs on the same benchmark."""
    method = f"{config['fusion']['name']}_{config_hash(config)}"
    return Path(config["output"]) / benchmark_name(config) / method / f"seed{config['seed']}"


def _seedless(fusion: dict) -> dict:
    return {key: value for key, value in fusion.items() if key != "seed"}


def _check(own: dict, base: dict) -> Fusion:
    """The fusion; raises ValueError for options that cannot work."""
    name = own["fusion"]["name"]
    if own["checkpoints"] is not None and own["run"] is not None:
        raise ValueError("give checkpoints or run, not both")
    if own["initial"] is not None and own["checkpoints"] is None:
        raise ValueError("initial=FILE belongs to checkpoints: the networks of a run know what they started from")
    if own["checkpoints"] is not None and own["weighting"] == "samples":
        raise ValueError("weighting=samples needs the networks of a run: of files it is not known what they have seen")
    if base["launcher"]["name"] != "none":
        raise ValueError(
            f"launcher={base['launcher']['name']}: merging is one process; train with run.py strategy=independent and "
            "several ranks, and merge with run=FOLDER"
        )
    if own["checkpoints"] is None and own["run"] is None and base["strategy"]["name"] != "independent":
        raise ValueError(f"merging starts from strategy=independent, got strategy={base['strategy']['name']}")
    known = sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))
    for baseline in own["baselines"]:
        if baseline not in known:
            raise ValueError(
                f"baselines={baseline} does not exist{did_you_mean(baseline, known)}; valid: {', '.join(known)}"
            )
    fusion = build(own["fusion"], "fusion")
    for asked, what in (
        (own["running"], "running=true goes on from"), (_starts_merged(base), "strategy.init=merged goes on from"),
        (own["finetune_samples"], f"finetune_samples={own['finetune_samples']} trains"),
    ):  # fmt: skip
        if asked and not isinstance(fusion, WeightFusion):
            raise ValueError(f"{what} merged weights, and fusion={name} has none")
    if own["weighting"] == "samples" and not fusion.uses_weights:
        options = " with these options" if type(fusion).uses_weights else ""
        raise ValueError(f"weighting=samples has no effect on fusion={name}{options}: it gives networks no weights")
    return fusion


def check_merge(fusion: Fusion, own: dict, base: dict, parts: Components, reader: sources.Reader) -> None:
    """Raise ValueError or OSError for networks that cannot be merged as they are asked to be."""
    name = own["fusion"]["name"]
    fusion.check(parts.model, parts.dataset.input_shape)
    _check_names(parts.model)
    if own["checkpoints"] is None and own["run"] is None:
        count, common = len(parts.stages), base["strategy"].get("init") != "independent"
    else:
        source = _look(own, base, parts, reader)
        count, common = len(source.states), source.initial is not None
        source.tasks = _known_tasks(fusion, own, base, parts, source)
        if own["checkpoints"] is not None and (own["sequential"] or own["running"]):
            _check_order(own, source)
        if fusion.unequal_widths:
            fusion.check_shapes(parts.model, parts.dataset.input_shape, source.states)
    if fusion.needs_initial and not common:
        raise ValueError(no_initial(name))
    most = fusion.most_models
    if most is not None and (count < most or count > most and not own["running"]):
        hint = "; running=true merges each with those before it" if count > most else ""
        raise ValueError(f"fusion={name} merges {most} networks, got {count}{hint}")
    num_tasks = parts.scenario.num_tasks
    if 0 < own["finetune_samples"] < num_tasks:
        raise ValueError(
            f"finetune_samples={own['finetune_samples']} are to be equally many of each task, and there are {num_tasks}"
        )


def _check_names(network: nn.Module) -> None:
    """Weights that a network has twice would be merged twice, each time by another rule."""
    first: dict[int, str] = {}
    for name, weight in network.named_parameters(remove_duplicate=False):
        if first.setdefault(id(weight), name) != name:
            raise ValueError(
                f"networks are merged weight by weight, and this one has {first[id(weight)]} once more as {name}"
            )


def _look(own: dict, base: dict, parts: Components, reader: sources.Reader, look: bool = True) -> sources.Source:
    """The networks of files or of a run, with their common init."""
    if own["checkpoints"] is not None:
        return reader.of_files(own["checkpoints"], own["initial"], look)
    return _of_run(Path(own["run"]), parts, reader, look)


def _of_run(folder: Path, parts: Components, reader: sources.Reader, look: bool = False) -> sources.Source:
    source = reader.of_run(folder, look)
    trained = source.results["config"]
    if trained["strategy"].get("init", "previous") != "independent":  # whatever happened since, it started there
        source.initial = experiment.initial_weights(trained, parts)
    return source


def _known_tasks(
    fusion: Fusion, own: dict, base: dict, parts: Components, source: sources.Source, say: bool = False
) -> list[list[int]]:
    """The tasks of each network; where a file does not say, in order, or with more files than tasks all of them."""
    unknown = [number for number, tasks in enumerate(source.tasks) if tasks is None]
    if not unknown:
        return source.tasks
    num_tasks, last = parts.scenario.num_tasks, unknown[-1]
    if last < num_tasks:
        assumed = {number: [number] for number in unknown}
    elif fusion.needs_tasks:
        raise ValueError(
            f"fusion={own['fusion']['name']} uses data of the task of each network: {source.files[last]} does not say "
            f"which it was trained on, and as number {last + 1} it has none of its own: "
            f"scenario={base['scenario']['name']} has {num_tasks} tasks"
        )
    else:
        assumed = dict.fromkeys(unknown, list(range(num_tasks)))
    if say:
        for number, tasks in assumed.items():
            what = f"task {number + 1}, by its place" if len(tasks) == 1 else "all tasks"
            print(f"{source.files[number]} does not say what it was trained on: taken for a network of {what}")
    return [tasks if tasks is not None else assumed[number] for number, tasks in enumerate(source.tasks)]


def _check_order(own: dict, source: sources.Source) -> None:
    """Rows of the accuracy matrix are the tasks so far; raises ValueError where those of files are not."""
    for number in range(len(source.tasks)):
        if _union(source.tasks[: number + 1]) != list(range(number + 1)):
            key = "running" if own["running"] else "sequential"
            tasks = ", ".join(str(task + 1) for task in source.tasks[number])
            raise ValueError(
                f"{key}=true merges task after task, and number {number + 1} of checkpoints, {source.files[number]}, "
                f"is a network of task {tasks}: give one file for each task, in their order"
            )


def _union(tasks: Iterable[list[int]]) -> list[int]:
    return sorted(set(chain(*tasks)))


def _starts_merged(base: dict) -> bool:
    return base["strategy"].get("init") == "merged"


def _with_strategy(base: dict, name: str) -> dict:
    """The same configuration with another strategy at its defaults."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "strategy" / f"{name}.yaml"))
    changed = copy.deepcopy(base)
    for group, values in node.items() if "strategy" in node else [("strategy", node)]:
        changed[group] = values if group == "strategy" else changed[group] | values
    return changed


def _train(base: dict, make_start=None) -> Path:
    config = OmegaConf.create(base)
    return finished_run(config) or experiment.run(config, make_start)


def _make_start(fusion: Fusion, own: dict, base: dict, parts: Components, tasks: Tasks, outputs, folder: Path):
    """For strategy.init=merged: what gives the merge of the networks so far, which is kept beside them."""
    kept, reader = folder / "merged", sources.Reader(base, parts)

    def start(stage: int, history: History) -> State:
        source = sources.Source(initial=experiment.initial_weights(base, parts))
        if stage == 0:
            return source.initial
        for before in range(stage):
            file = experiment.checkpoint.task_file(folder, before)
            state, about = reader.read(file)
            source.files.append(file)
            source.states.append(state)
            source.tasks.append(about["tasks"])
            source.num_samples.append(tasks.num_training(about["tasks"]))
        context = MergeContext(base, parts, tasks, outputs, history, kept, own["batch_norm_samples"])
        before, carried = None, {}
        if own["running"] and stage > 1:
            before, about = reader.read(experiment.checkpoint.task_file(kept, stage - 2))
            before, carried = sources.moved(before, parts.device), about["carried"]
        merged = _fuse(fusion, own, source.to(parts.device), stage - 1, before, carried, context)
        experiment.checkpoint.save_task(kept, stage - 1, merged, {"config": base | own, "carried": carried})
        return merged.state_dict()

    return start


def _find_models(fusion: Fusion, own: dict, base: dict, parts: Components, reader: sources.Reader) -> sources.Source:
    """The networks with their weights, after training them if need be."""
    if own["checkpoints"] is None and own["run"] is None:
        return _of_run(_train(base, partial(_make_start, fusion, own, base)), parts, reader)
    source = _look(own, base, parts, reader, look=False)
    source.tasks = _known_tasks(fusion, own, base, parts, source, say=True)
    return source


def _merge(
    fusion, own: dict, base: dict, parts: Components, tasks: Tasks, source: sources.Source, folder: Path
) -> dict:
    """Fuse, test, save; the content of results.json."""
    network, device = parts.model, parts.device
    evaluator, outputs = experiment.make_evaluator(base, parts, tasks)
    history = History(*evaluator(network))
    source = source.to(device)
    states = source.states
    alone = [evaluator(network, lambda x, state=state: functional_call(network, state, x))[0] for state in states]
    context = MergeContext(base, parts, tasks, outputs, history, folder, own["batch_norm_samples"])
    merge_seconds = 0.0
    merged: nn.Module | None = None
    carried: dict[str, float] = {}
    for last in range(len(states)) if own["sequential"] or own["running"] else [len(states) - 1]:
        started = time.perf_counter()
        before = merged.state_dict() if own["running"] and merged is not None else None
        merged = _fuse(fusion, own, source, last, before, carried, context)
        merge_seconds += time.perf_counter() - started
        history.add(*evaluator(merged))
        about = {"tasks": _union(source.tasks[: last + 1]), "accuracy": history.rows[-1], "config": base | own}
        experiment.checkpoint.save_task(folder, last, merged, about)
    return _results(own, base, parts, source, history, context, alone, merge_seconds - context.measure_seconds)


def _fuse(
    fusion: Fusion,
    own: dict,
    source: sources.Source,
    last: int,
    before: State | None,
    carried: dict[str, float],
    context: MergeContext,
) -> nn.Module:
    """The networks up to number `last` as one, or with `before`, what those up to the last were, this and the last.

    `carried`: what the fusion noted when it made `before`; it notes there what the next needs.
    """
    weights, tasks = _weights(own["weighting"], source.num_samples[: last + 1]), source.tasks[: last + 1]
    states, names, known = source.states[: last + 1], source.names[: last + 1], tasks
    if before is not None:
        states, names = [before, states[last]], ["the networks merged so far", names[last]]
        known, weights = [_union(tasks[:-1]), tasks[-1]], [sum(weights[:last]), weights[last]]
    models = Models(
        states, weights, [name for name, _ in context.network.named_parameters()], source.initial, names, known,
        fusion.unequal_widths, 0 if before is None else last, carried,
    )  # fmt: skip
    merged, seen = fusion.network(models, context), _union(tasks)
    if isinstance(fusion, WeightFusion):  # others have no weights of their own, to which statistics could belong
        context.recalibrate_batch_norm(merged, seen)
    if own["finetune_samples"]:
        memory = context.labelled(seen, max(1, own["finetune_samples"] // len(seen)))
        context.train(merged, memory, own["finetune_epochs"])
    return merged


def _results(
    own: dict,
    base: dict,
    parts: Components,
    source: sources.Source,
    history: History,
    context: MergeContext,
    alone: list[list[float]],
    merge_seconds: float,
) -> dict:
    """The content of results.json: totals are those of training the networks and of merging them."""
    trained = source.results or {}
    accuracies = [sum(row) / len(row) for row in alone]
    measured = results.measures(history, parts.scenario.task_aware)
    return {
        "schema": results.SCHEMA,
        "kind": "merge",
        "fusion": own["fusion"]["name"],
        "strategy": base["strategy"]["name"],
        "scenario": base["scenario"]["name"],
        "dataset": base["dataset"]["name"],
        "backbone": base["backbone"]["name"],
        "buffer": None,
        "buffer_capacity": None,
        "seed": base["seed"],
        "group": config_hash(base | own),
        "identity": as_text(words(base | own)),
        "models_group": config_hash(base | {key: own[key] for key in ("run", "checkpoints")}),
        "world_size": 1,
        **measured,
        "model_accuracies": accuracies,
        "mean_model_accuracy": sum(accuracies) / len(accuracies),
        "model_accuracy_matrix": alone,
        "train_seconds": trained.get("train_seconds", 0.0) + merge_seconds,
        "merge_seconds": merge_seconds,
        "eval_seconds": history.eval_seconds,
        "samples_per_second": None,
        "replay_wait_seconds": 0.0,
        "buffer_bytes": _kept_bytes(own, parts, source.states, context.samples_kept),
        "peak_memory_bytes": results.peak_memory_bytes(parts.device),
        "gradient_steps": trained.get("gradient_steps", 0) + history.gradient_steps,
        "labelled_samples": trained.get("labelled_samples", 0) + history.labelled_samples,
        "merge_gradient_steps": history.gradient_steps,
        "merge_labelled_samples": history.labelled_samples,
        "unlabelled_samples": context.unlabelled_samples,
        **context.recorded,
        "versions": results.versions(),
        "config": base | own,
    }


def _kept_bytes(own: dict, parts: Components, states: list[State], samples: int) -> int:
    """Of the networks and the samples that have to be there for the merge."""
    sizes = [sum(value.nbytes for value in state.values()) for state in states]
    networks = sum(sizes[:2]) if own["running"] else sum(sizes)
    return networks + samples * (math.prod(parts.dataset.sample_shape) + 16)


def _weights(weighting: str, num_samples: list[int]) -> list[float]:
    if weighting == "uniform":
        return [1 / len(num_samples)] * len(num_samples)
    return [count / sum(num_samples) for count in num_samples]
