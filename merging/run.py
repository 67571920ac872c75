"""One merge, from its configuration to its results and those of the baselines; read it from top to bottom.

The networks are trained by the code of any other run and kept in the same folders. A finished run is not trained again.
"""

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn

from cl.configuration import place
from cl.configuration.composing import composed
from cl.configuration.settings import MERGE_KEYS
from cl.configuration.trust import check_trust
from cl.reporting import custom, plots, screen
from cl.reporting import results as files
from cl.reporting.history import History
from cl.reporting.loggers import told
from cl.run import checkpoint, experiment
from cl.run.evaluator import Evaluator
from cl.run.folder import alone, found_finished, plain
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.scenarios.base import Tasks
from merging import resume
from merging.batch_norm import has_statistics
from merging.checks import check_merge, check_network, check_options, known_tasks, starts_merged, union
from merging.context import MergeContext
from merging.curve import pictures
from merging.folder import merge_folder
from merging.fusion import Fusion, Models, State, WeightFusion, loaded
from merging.results import merge_costs, merge_results
from merging.sources import Reader, Source, moved
from merging.training import train, train_all


def run(config) -> list[Path]:
    """Merge as the OmegaConf configuration says; returns the folders of the baselines and, last, of the result.

    Mistakes in the configuration and in files raise before any training and before any data is loaded.
    """
    config = plain(config)
    fusion, own, base = parts(config)
    folder = merge_folder(config)
    with Session(make_plan(base), adapters=False) as session:
        merge = Merge(fusion, own, session, folder)
        baselines = merge.checked_baselines()
        if merge.is_finished():  # also while another command adds baselines to it
            return [*train_all(baselines), folder]
        with alone(folder, session.comm):
            if merge.is_finished():  # meanwhile
                return [*train_all(baselines), folder]
            return merge.run(baselines)


def parts(config: dict) -> tuple[Fusion, dict, dict]:
    """The fusion, the options that only merge.py has, and the configuration of the run that trains the networks."""
    own = {key: config[key] for key in MERGE_KEYS}
    base = {key: value for key, value in config.items() if key not in MERGE_KEYS}
    fusion = check_options(own, base)
    if starts_merged(base):  # the trained networks depend on the fusion, so it is part of their run's identity
        options = {key: own[key] for key in ("weighting", "running", "finetune_samples", "finetune_epochs")}
        seedless = {key: value for key, value in own["fusion"].items() if key != "seed"}
        base["strategy"] = base["strategy"] | {"fusion": seedless | options}
    return fusion, own, base


class Merge:
    """One fusion of the networks of a run or of files. `own`: the options that only merge.py has."""

    def __init__(self, fusion: Fusion, own: dict, session: Session, folder: Path):
        self.fusion, self.own, self.session, self.folder = fusion, own, session, folder
        self.base, self.plan = session.config, session.plan
        self.reader = Reader(session, fusion.unequal_widths and own["checkpoints"] is not None)
        self.recalibrates = isinstance(fusion, WeightFusion)  # an ensemble keeps the statistics of its networks
        self.trains = own["checkpoints"] is None and own["run"] is None  # whether this command trains the networks

    def checked_baselines(self) -> list[dict]:
        """The configurations of the baselines; raises ValueError for a scenario or metric that cannot be had here."""
        base, own = self.base, self.own
        if self.plan.scenario.targets:
            raise ValueError(
                f"merging is for classification, but scenario={base['scenario']['name']} has no labels: choose another"
            )
        baselines = [with_strategy(base, name) for name in own["baselines"]]
        for baseline in baselines:
            make_plan(baseline)
        rows = len(self.plan.stages) if own["sequential"] or own["running"] else 1
        custom.try_out(base["metrics"], rows, self.plan.scenario.num_tasks)
        return baselines

    def is_finished(self) -> bool:
        """Whether this merge was finished before and is not to be overwritten; says so."""
        if self.base["overwrite"] or not (self.folder / "results.json").is_file():
            return False
        found_finished(self.folder, self.base["metrics"], "overwrite=true merges again")
        return True

    def run(self, baselines: list[dict]) -> list[Path]:
        """Check, train what is missing, merge, test, save; returns the folders."""
        base, own, folder = self.base, self.own, self.folder
        check_network(self.fusion, self.session)
        check_merge(self.fusion, own, self.session, None if self.trains else self.look())
        finished = train_all(baselines)
        tasks, _ = self.session.load_tasks()
        source = self.find()
        source.num_samples = [tasks.num_training(of_network) for of_network in source.tasks]
        if base["overwrite"]:
            checkpoint.clear(folder, everything=True)
            resume.clear(folder)
        self.session.logger.start(folder, base | own, "merge")
        content = self.merge(tasks, source)
        files.write_json(folder / "results.json", content)
        resume.clear(folder)
        with ExitStack() as ending:
            ending.callback(self.session.logger.finish, content)
            ending.callback(self.draw, content)
            content |= custom.add(folder, base["metrics"])
        reach = "  ".join(f"{100 * value:.2f}" for value in content["model_accuracies"])
        screen.say(f"{own['fusion']['name']} of {len(source.states)} networks, which reach alone: {reach} %")
        return [*finished, folder]

    def draw(self, content: dict) -> None:
        """Draw the pictures of a finished merge."""
        with plots.after_results(self.folder):
            plots.draw_run(self.folder, content, self.base["pictures"], self.base["picture_titles"])
            if "curve" in content:
                scenario, dataset = self.base["scenario"]["name"], self.base["dataset"]["name"]
                title = f"{self.own['fusion']['kind']} between networks, {scenario} on {dataset}"
                title = title if self.base["picture_titles"] else ""
                pictures.draw_curve(self.folder, content["curve"], title, self.base["pictures"])

    def look(self, values: bool = False) -> Source:
        """The networks of files or of a run, with their common init; `values`: with values, not only shapes."""
        if self.own["checkpoints"] is not None:
            return self.reader.of_files(self.own["checkpoints"], self.own["initial"], look=not values)
        return self.of_run(Path(self.own["run"]), look=not values)

    def of_run(self, folder: Path, look: bool = False) -> Source:
        """The networks of a run, with their common init; `look`: shapes only, without values."""
        source = self.reader.of_run(folder, look)
        trained = source.results["config"]
        if trained["strategy"].get("init", "previous") != "independent":  # the first network started from the init
            source.initial = self.reader.initial_of(trained)
        return source

    def find(self) -> Source:
        """The networks with values; trains them if needed."""
        if self.trains:
            return self.of_run(train(self.base, self.start_of))
        source = self.look(values=True)
        source.tasks = known_tasks(self.fusion, self.own, self.session, source, say=True)
        return source

    def start_of(self, session: Session, tasks: Tasks) -> Callable[[int, History], State]:
        """For strategy.init=merged: a function that merges the networks so far and saves the merge beside them."""
        folder, reader = session.plan.folder, Reader(session)
        kept = folder / "merged"
        if self.base["overwrite"]:
            resume.clear(kept)

        def start(stage: int, history: History) -> State:
            source = Source(initial=session.initial_weights())
            if stage == 0:
                return source.initial
            for before in range(stage):
                file = checkpoint.task_file(folder, before)
                state, about = reader.read(file)
                source.files.append(file)
                source.states.append(state)
                source.tasks.append(about["tasks"])
                source.num_samples.append(tasks.num_training(about["tasks"]))
            context = self.context(session, tasks, history, kept, source)
            before, carried = None, {}
            if stage > 1:
                last, about = reader.read(checkpoint.task_file(kept, stage - 2))
                context.kept_rows = about.get("files")
                if self.own["running"]:
                    before, carried = moved(last, session.device), about["carried"]
            merged = self.fuse(source.to(session.device), stage - 1, before, carried, context)
            checkpoint.save_task(
                kept, stage - 1, merged, {"config": self.base | self.own, "carried": carried, "files": context.files}
            )
            resume.clear(kept)
            return merged.state_dict()

        return start

    def merge(self, tasks: Tasks, source: Source) -> dict:
        """Merge, test and save; returns the content of results.json."""
        session, own = self.session, self.own
        evaluator = experiment.make_evaluator(session, tasks)
        history = History(*evaluator(session.model))
        source = source.to(session.device)
        states = source.states
        context = self.context(session, tasks, history, self.folder, source)
        alone = self.alone(source, context, evaluator)
        merge_seconds = 0.0
        merged: nn.Module | None = None
        carried: dict[str, float] = {}
        merges = range(len(states)) if own["sequential"] or own["running"] else [len(states) - 1]
        for last in merges:
            started = time.perf_counter()
            before = merged.state_dict() if own["running"] and merged is not None else None
            merged = self.fuse(source, last, before, carried, context)
            merge_seconds += time.perf_counter() - started
            if starts_merged(self.base) and last < len(states) - 1:
                # The next network started from this merge, so it is counted in the training already.
                context.forget_costs()
                merge_seconds = 0.0
            row, task_aware_row = evaluator(merged)
            history.add(row, task_aware_row)
            stage = len(history.rows) - 1
            session.logger.log_test(stage, told.of_test("accuracy", row, task_aware_row, stage, len(merges)))
            about = {"tasks": union(source.tasks[: last + 1]), "accuracy": history.rows[-1], "config": self.base | own}
            checkpoint.save_task(self.folder, last, merged, about)
        context.measure()
        spent = merge_costs(self.fusion, own, source, context, merged, carried)
        merge_seconds += context.restored_seconds
        return merge_results(self.fusion, own, source, context, alone, merge_seconds, spent)

    def context(self, session: Session, tasks: Tasks, history: History, folder: Path, source: Source) -> MergeContext:
        """What the fusion works on; what it trains is kept in `folder` until the merge is finished."""
        networks = [*source.states, *([] if source.initial is None else [source.initial])]
        return MergeContext(session, tasks, history, folder, self.own["batch_norm_samples"], networks)

    def alone(self, source: Source, context: MergeContext, evaluator: Evaluator) -> list[list[float]]:
        """The accuracies of each network alone, with batch-norm statistics as the merged network has them."""
        rows = []
        for state in source.states:
            network = loaded(context.network, state)
            if self.recalibrates:
                with context.measuring():
                    context.recalibrate_batch_norm(network, union(source.tasks))
            rows.append(evaluator(network)[0])
        kind = "recalibrated" if self.recalibrates else "own"
        statistics = has_statistics(context.network)
        context.recorded["batch_norm"] = kind if statistics else None
        # Fine-tuning goes on from the recalibrated statistics, and changes them.
        merged = "trained" if self.own["finetune_samples"] else kind
        context.recorded["merged_batch_norm"] = merged if statistics else None
        return rows

    def fuse(
        self, source: Source, last: int, before: State | None, carried: dict[str, float], context: MergeContext
    ) -> nn.Module:
        """Merge the networks 0 to `last`; with `before`, the merge of networks 0 to `last` - 1, only that and `last`.

        `carried`: the fusion's notes from the merge that gave `before`; it is updated for the next merge.
        """
        fusion, own = self.fusion, self.own
        weights, tasks = weights_of(own["weighting"], source.num_samples[: last + 1]), source.tasks[: last + 1]
        states, names, known = source.states[: last + 1], source.names[: last + 1], tasks
        if before is not None:
            states, names = [before, states[last]], ["the networks merged so far", names[last]]
            known, weights = [union(tasks[:-1]), tasks[-1]], [sum(weights[:last]), weights[last]]
        # What is frozen is alike in all networks.
        trained = [name for name, weight in context.network.named_parameters() if weight.requires_grad]
        models = Models(
            states, weights, trained, source.initial, names, known,
            fusion.unequal_widths, 0 if before is None else last, carried,
        )  # fmt: skip
        merged, seen = context.fuse(fusion, models), union(tasks)
        if self.recalibrates:
            context.recalibrate_batch_norm(merged, seen)
        if own["finetune_samples"]:
            memory = context.labelled(seen, max(1, own["finetune_samples"] // len(seen)))
            context.train(merged, memory, own["finetune_epochs"])
        return merged


def with_strategy(base: dict, name: str) -> dict:
    """The configuration with another strategy at its default options."""
    file = place.file_of("strategy", name)
    node = OmegaConf.to_container(OmegaConf.load(file))
    if "defaults" in node:  # a file of the user that is made of another
        node = OmegaConf.to_container(composed("run", [f"strategy={name}"], file.parent.parent).strategy)
    changed = copy.deepcopy(base)
    for group, values in node.items() if "strategy" in node else [("strategy", node)]:
        changed[group] = values if group == "strategy" else changed[group] | values
    check_trust(changed)
    return changed


def weights_of(weighting: str, num_samples: list[int]) -> list[float]:
    """The weight of each network in the mean: uniform, or in proportion to its number of training samples."""
    if weighting == "uniform":
        return [1 / len(num_samples)] * len(num_samples)
    return [count / sum(num_samples) for count in num_samples]
