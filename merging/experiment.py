"""Composition root of merging: from a configuration to networks, their fusion, and its results beside the baselines.

Networks are trained by the same code as any other run, and lie in the same folders: what is there is not trained again.
"""

import copy
import math
import time
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call

from cl import experiment, plots, results
from cl.build import build
from cl.experiment import Components
from cl.history import History
from cl.run_folder import benchmark_name, check_writable, config_hash, finished_run, plain
from cl.scenarios import Tasks
from cl.settings import MERGE_KEYS
from cl.values import did_you_mean
from merging import pictures, sources
from merging.fusion import Fusion, Models, State, WeightFusion
from merging.workshop import Workshop

CONF = Path(__file__).resolve().parent.parent / "conf"


def run(config) -> list[Path]:
    """Merge what the configuration (OmegaConf) describes; returns the folders of baselines and, last, of the result."""
    config = plain(config)
    own = {key: config[key] for key in MERGE_KEYS}
    base = {key: value for key, value in config.items() if key not in MERGE_KEYS}
    fusion = _check(own, base)
    if _starts_merged(base):  # then the networks are others with each fusion
        options = {key: own[key] for key in ("weighting", "running", "finetune_samples", "finetune_epochs")}
        base["strategy"] = base["strategy"] | {"fusion": _seedless(own["fusion"]) | options}
    parts = experiment.compose(base)
    if parts.scenario.targets:
        raise ValueError(
            f"networks are merged by what they classify, and scenario={base['scenario']['name']} has no labels"
        )
    folder = merge_folder(config)
    baselines = [(name, _with_strategy(base, name)) for name in own["baselines"]]
    for _, baseline in baselines:
        experiment.compose(baseline)
    check_writable(folder)
    finished = [_train(baseline) for _, baseline in baselines]
    if (folder / "results.json").is_file() and not base["overwrite"]:
        print(f"finished before: {folder}  (overwrite=true merges anew)")
        return [*finished, folder]
    tasks, _ = experiment.load_tasks(base, parts)
    source = _find_models(fusion, own, base, parts, tasks)
    content = _merge(fusion, own, base, parts, tasks, source, folder)
    plots.draw_run(folder, content, base["pictures"])
    if "t" in content.get("curve", {}):
        title = f"{own['fusion']['kind']} between networks, {base['scenario']['name']} on {base['dataset']['name']}"
        pictures.draw_curve(folder, content["curve"], title, base["pictures"])
    results.write_json(folder / "results.json", content)
    alone = "  ".join(f"{100 * value:.2f}" for value in content["model_accuracies"])
    print(f"{own['fusion']['name']} of {len(source.states)} networks, which reach alone: {alone} %")
    return [*finished, folder]


def merge_folder(config: dict) -> Path:
    """The folder of a merged network: a function of the configuration, beside the runs on the same benchmark."""
    method = f"{config['fusion']['name']}_{_hash(config)}"
    return Path(config["output"]) / benchmark_name(config) / method / f"seed{config['seed']}"


def _hash(config: dict) -> str:
    """What names a merge without its seed; the baselines beside it are no part of it."""
    kept = {key: value for key, value in config.items() if key != "baselines"}
    return config_hash(kept | {"fusion": _seedless(config["fusion"])})


def _seedless(fusion: dict) -> dict:
    return {key: value for key, value in fusion.items() if key != "seed"}


def _check(own: dict, base: dict) -> Fusion:
    """The fusion; raises ValueError for what cannot work, before anything is trained."""
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
    for name in own["baselines"]:
        if name not in known:
            raise ValueError(f"baselines={name} does not exist{did_you_mean(name, known)}; valid: {', '.join(known)}")
    fusion = build(own["fusion"], "fusion")
    for asked, what in ((own["running"], "running=true"), (_starts_merged(base), "strategy.init=merged")):
        if asked and not isinstance(fusion, WeightFusion):
            raise ValueError(f"{what} goes on from merged weights, and fusion={own['fusion']['name']} has none")
    return fusion


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


def _make_start(fusion: Fusion, own: dict, base: dict, parts: Components, tasks: Tasks, foreign, folder: Path):
    """For strategy.init=merged: what gives the merge of the networks so far, which is kept beside them."""
    kept = folder / "merged"

    def start(stage: int, history: History) -> State:
        source = sources.Source([], [], [], experiment.initial_weights(base, parts), None)
        if stage == 0:
            return source.initial
        for task in range(stage):
            file = experiment.checkpoint.task_file(folder, task)
            source.add(str(file), sources.read(file, base), tasks.num_training([task]))
        context = Workshop(base, parts, tasks, foreign, history, kept, own["batch_norm_samples"])
        before = None
        if own["running"] and stage > 1:
            before = sources.read(experiment.checkpoint.task_file(kept, stage - 2), base)
            before = {name: value.to(parts.device) for name, value in before.items()}
        merged = _fuse(fusion, own, source.to(parts.device), stage - 1, before, context)
        experiment.checkpoint.save_task(kept, stage - 1, merged, {"config": base | own})
        return merged.state_dict()

    return start


def _find_models(fusion: Fusion, own: dict, base: dict, parts: Components, tasks: Tasks) -> sources.Source:
    if own["checkpoints"] is not None:
        return sources.from_files(own["checkpoints"], own["initial"], base)
    folder = Path(own["run"]) if own["run"] is not None else _train(base, partial(_make_start, fusion, own, base))
    source = sources.from_run(folder, base)
    if len(source.states) > len(tasks):
        raise ValueError(
            f"{folder} has {len(source.states)} networks, scenario={base['scenario']['name']} {len(tasks)} tasks"
        )
    trained = source.results["config"]
    if trained["strategy"].get("init", "previous") != "independent":  # whatever happened since, it started there
        source.initial = experiment.initial_weights(trained, parts)
    source.num_samples = [tasks.num_training([task]) for task in range(len(source.states))]
    return source


def _merge(
    fusion, own: dict, base: dict, parts: Components, tasks: Tasks, source: sources.Source, folder: Path
) -> dict:
    """Fuse, test, save; the content of results.json."""
    network, device = parts.model, parts.device
    evaluator, foreign = experiment.make_evaluator(base, parts, tasks)
    history = History(*evaluator(network))
    source = source.to(device)
    states = source.states
    parameters = [name for name, _ in network.named_parameters()]
    # The network that the configuration describes is one of those compared: a checkpoint of another one is named.
    names, weights = ["the configured backbone", *source.names], [1.0] + [0.0] * len(states)
    Models([network.state_dict(), *states], weights, parameters, names=names, unequal_widths=fusion.unequal_widths)
    alone = [evaluator(network, lambda x, state=state: functional_call(network, state, x))[0] for state in states]
    context = Workshop(base, parts, tasks, foreign, history, folder, own["batch_norm_samples"])
    merge_seconds = 0.0
    merged: nn.Module | None = None
    for last in range(len(states)) if own["sequential"] or own["running"] else [len(states) - 1]:
        started = time.perf_counter()
        before = merged.state_dict() if own["running"] and merged is not None else None
        merged = _fuse(fusion, own, source, last, before, context)
        merge_seconds += time.perf_counter() - started
        history.add(*evaluator(merged))
        about = {"tasks": list(range(last + 1)), "accuracy": history.rows[-1], "config": base | own}
        experiment.checkpoint.save_task(folder, last, merged, about)
    return _results(own, base, parts, source, history, context, alone, merge_seconds - context.measure_seconds)


def _fuse(
    fusion: Fusion, own: dict, source: sources.Source, last: int, before: State | None, context: Workshop
) -> nn.Module:
    """The networks up to number `last` as one, or with `before`, what those up to the last were, this and the last."""
    weights, tasks = _weights(own["weighting"], source.num_samples[: last + 1]), list(range(last + 1))
    states, names, known = source.states[: last + 1], source.names[: last + 1], [[task] for task in tasks]
    if before is not None:
        states, names, known = [before, states[last]], ["the networks merged so far", names[last]], [tasks[:-1], [last]]
        weights = [sum(weights[:last]), weights[last]]
    parameters = [name for name, _ in context.network.named_parameters()]
    models = Models(states, weights, parameters, source.initial, names, known, fusion.unequal_widths)
    merged = fusion.network(models, context)
    context.settle(merged, tasks)
    if own["finetune_samples"]:
        memory = context.labelled(tasks, max(1, own["finetune_samples"] // len(tasks)))
        context.train(merged, memory, own["finetune_epochs"])
    return merged


def _results(
    own: dict,
    base: dict,
    parts: Components,
    source: sources.Source,
    history: History,
    context: Workshop,
    alone: list[list[float]],
    merge_seconds: float,
) -> dict:
    """The content of results.json: totals are those of training the networks and of merging them."""
    trained = source.results or {}
    accuracies = [sum(row) / len(row) for row in alone]
    measured = results.measures(history, parts.scenario.task_known)
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
        "group": _hash(base | own),
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


def _weights(weighting: str, num_samples: list[int | None]) -> list[float]:
    if weighting == "uniform":
        return [1 / len(num_samples)] * len(num_samples)
    return [count / sum(num_samples) for count in num_samples]
