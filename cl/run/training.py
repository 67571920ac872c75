"""All stages of a run, each followed by the test and a checkpoint; goes on where an unfinished run stands."""

import copy
import time
from collections.abc import Callable, Generator

import torch
from torch import nn

from cl.buffers.base import ReplayBuffer
from cl.data.rows import Rows
from cl.distributed.group import check_equal, equalise_statistics
from cl.networks.lora import about, adapters
from cl.reporting import metrics, results, screen
from cl.reporting.history import History
from cl.reporting.loggers import told
from cl.reporting.metrics_file import MetricsFile
from cl.reporting.progress import Progress
from cl.reporting.recorder import Recorder
from cl.run import checkpoint
from cl.run.anytime import Anytime
from cl.run.averaging import set_up
from cl.run.callbacks import RunContext
from cl.run.checkpoint import Checkpoints, Position
from cl.run.evaluator import Evaluator
from cl.run.part import Part
from cl.run.saving import Saver
from cl.run.session import Session
from cl.run.state import Generators, StateTree, Statistics, copied
from cl.scenarios.base import Tasks

# The weights with which a stage starts, from its number and the history so far.
Start = Callable[[int, History], dict[str, torch.Tensor]]


class Training:
    """The stages of one run. `start`: what gives the weights of each stage, for a strategy that asks for it."""

    def __init__(
        self, session: Session, tasks: Tasks, buffer: ReplayBuffer | None, evaluator: Evaluator,
        start: Start | None = None,
    ):  # fmt: skip
        self.session, self.plan, self.config = session, session.plan, session.config
        self.folder, self.strategy, self.stages = session.plan.folder, session.plan.strategy, session.plan.stages
        self.tasks, self.evaluator, self.start = tasks, evaluator, start
        own = metrics.constant(results.task_classes(self.plan.scenario), self.plan.scenario.task_aware)
        self.shows_task_aware = "task_average_accuracy" not in own
        self.label = f"{self.folder.parent.name.rpartition('_')[0]} seed {self.config['seed']}"
        self.history = History([], None, measure="error" if self.plan.scenario.targets else "accuracy")
        self.fresh_updater = copy.deepcopy(session.updater.state_dict())
        keeps = self.config["model_state"] == "keep"
        self.fresh_model = None if keeps else copy.deepcopy(session.model.state_dict())
        self.recorder = Recorder(self.history, logger=session.logger, log_interval=self.config["log_interval"])
        self.trainer = session.recipe.trainer(self.strategy, self.recorder)
        if self.config["optimizer_state"] == "epoch":
            self.trainer.each_epoch = self._reset_updater
        self.average = set_up(session.plan.average, session)
        self.anytime = None
        if self.config["eval_every"] is not None:
            self.anytime = Anytime(
                self.config["eval_every"], self.plan.scenario, self.stages,
                lambda: (self.tested, self._classifier()), evaluator, self.recorder, session.comm,
                average_statistics=self.config["batch_norm"] == "average",
            )  # fmt: skip
            self.trainer.pauses = self.anytime
        self.tree = self._state_tree(buffer)
        self.checkpoints = Checkpoints(
            self.folder, self.tree, session.comm, session.device, overwrite=self.config["overwrite"]
        )

    def _state_tree(self, buffer: ReplayBuffer | None) -> StateTree:
        """Everything that a checkpoint holds."""
        tree, session = StateTree(), self.session
        tree.register("network", adapters(session.model))
        # With Adasum each rank's optimizer has taken its own gradients.
        tree.register("updater", session.updater, own=self.config["reduce"]["operation"] == "adasum")
        tree.register("strategy", self.strategy)
        tree.register("history", self.history)
        tree.register("recorder", self.recorder)
        tree.register("trainer", self.trainer, own=True)
        tree.register("logged", self.strategy.logged, own=True)
        tree.register("statistics", Statistics(session.model), own=True)
        tree.register("transform", session.transform, own=True)
        tree.register("passes", session.passes, own=True)
        tree.register("generators", Generators(session.device), own=True)
        tree.register("logger", session.logger, own=True)
        tree.register("callbacks", self.plan.callbacks, own=True)
        if self.average.beside:
            tree.register("average", self.average)
            tree.register("statistics of the average", Statistics(self.average.network), own=True)
        elif self.average.in_place:
            tree.register("average over tasks", self.average)
        if buffer is not None:
            tree.register_stored("buffer", buffer)
        return tree

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and saved: the one that is trained, or the one with the averaged weights."""
        return self.average.network if self.average.beside else self.session.model

    def run(self) -> Generator[Part, None, History]:
        """Train what is not trained yet; whoever takes a part trains it before taking the next one."""
        session, comm = self.session, self.session.comm
        checkpoints = self.checkpoints
        position, resumed = checkpoints.load(), True
        begun = self.config["checkpoint"]["ranks"]
        if position is None and begun not in (None, comm.size):
            raise ValueError(
                f"checkpoint.ranks={begun}, but {self.folder} has no unfinished run that {begun} ranks have begun: "
                "leave it out"
            )
        if position is not None and position.ranks != comm.size and comm.is_main:
            screen.say(
                f"this run stands where {position.ranks} ranks have left it and goes on with {comm.size}: its numbers "
                "differ from now on from those of a run with one number of ranks"
            )
        if position is None:
            if comm.size > 1:  # all ranks start from the same bits, whatever their libraries made of the seed
                weights = {name: value.cpu() for name, value in session.model.state_dict().items()}
                session.model.load_state_dict(comm.broadcast(weights))
                self.average.begin()
            if comm.is_main:
                if not self.strategy.trains:
                    screen.say(
                        f"strategy={self.config['strategy']['name']} sees each sample once and takes no gradient "
                        "steps: epochs, steps, optimizer and schedule do not apply"
                    )
                results.write_config(self.folder / "config.yaml", self.config)
            self.history.start(*self.evaluator(session.model))
            position = Position(0, ranks=comm.size)
            resumed = False
        first = position.stage
        steps = [self.steps(stage, self.tasks.num_training(chosen)) for stage, chosen in enumerate(self.stages)]
        show = self.config["progress"] and comm.is_main
        self.recorder.progress = progress = Progress(self.label, sum(steps), sum(steps[:first]) + position.step, show)
        try:
            if comm.is_main:
                self.recorder.metrics = MetricsFile(self.folder / "metrics.csv", self.recorder.kept)
            # What loggers and callbacks draw at their start belongs to the run's own start, not to one that goes on.
            streams = {name: copied(self.tree.own[name].state_dict()) for name in ("generators", "transform")}
            session.logger.start(self.folder, self.config, "run")
            self._start_callbacks(position)
            if resumed:
                for name, state in streams.items():
                    self.tree.own[name].load_state_dict(state)
            session.model.train()
            saver = Saver(checkpoints, comm, self.config["checkpoint"]["every"], self.folder)
            for stage in range(first, len(self.stages)):
                within, name = position.step if stage == first else 0, f"task {stage + 1} of {len(self.stages)}"
                samples = self.tasks.training(self.stages[stage]).to(session.device)
                if not within:
                    started = time.perf_counter()
                    self.prepare(stage, samples)
                    self.history.train_seconds += time.perf_counter() - started
                training_set = self.strategy.training_set(stage, samples)
                needed = self.steps(stage, len(training_set))
                progress.expect(needed - steps[stage])
                if not within:
                    self.plan.callbacks.stage_start(stage, len(training_set), needed)
                elif position.ranks != comm.size:  # steps of these ranks, and streams of theirs
                    self.trainer.start(stage, within * needed // position.steps)
                    progress.done += self.trainer.step - within
                if resumed and stage == first and comm.is_main:
                    step = self.trainer.step if within else 0
                    done = f"{progress.done} of {progress.total} steps"
                    progress.line(f"resumed at task {stage + 1}, step {step} of {needed} ({done} in all)")
                self.trainer.after_step = saver.within(stage, needed, name)
                self.average_over(needed)
                self.trainer.ordered = self.keeps_order(stage, samples, training_set)
                yield Part(self.trainer, training_set, stage, needed)
                self._record(stage, self.finish(stage, samples))
                saver.end_stage(stage, name, last=stage + 1 == len(self.stages))
                if comm.is_main:
                    shown = self.trainer.loss if self.strategy.trains else None
                    line = stage_line(self.label, stage, self.stages, shown, self.history, self.shows_task_aware)
                    progress.line(line)
        finally:
            progress.close()
            checkpoints.close()
        return self.history

    def _start_callbacks(self, position: Position) -> None:
        session, config = self.session, copy.deepcopy(self.config)
        rank, ranks = session.comm.rank, session.comm.size
        stages = copy.deepcopy(self.stages)
        context = RunContext(
            config, self.folder, session.model, session.device, rank, ranks, stages, position.stage, position.step
        )
        self.plan.callbacks.passes = session.passes
        self.plan.callbacks.run_start(context)
        self.trainer.on_step = self.plan.callbacks.step_hook()

    def prepare(self, stage: int, samples: Rows) -> None:
        """Weights, optimizer, strategy and average as a stage starts with them."""
        self.average.before_stage()
        self.strategy.before_task(stage, samples)
        if self.config["optimizer_state"] != "keep":
            self._reset_updater()
        if self.fresh_model is not None:
            self.session.model.load_state_dict(self.fresh_model)
        self.strategy.start_task(stage)
        if self.start is not None:
            self.session.model.load_state_dict(self.start(stage, self.history))
        self.average.start_stage(stage)

    def average_over(self, steps: int) -> None:
        """Have the average follow the steps of a stage."""
        self.trainer.each_step = self.average.each_step(lambda: self.trainer.step, steps)

    def finish(self, stage: int, samples: Rows) -> list[float]:
        """The end of a stage, and the test: the accuracy, or the error, on each task."""
        session, history, comm = self.session, self.history, self.session.comm
        networks = [session.model, self.average.network] if self.average.beside else [session.model]
        for network in networks:
            equalise_statistics(comm, network, average=self.config["batch_norm"] == "average")
        started = time.perf_counter()
        self.average.end_stage(stage, samples, lambda: self.strategy.training_set(stage, samples))
        self.strategy.after_task(stage, samples)
        for network in networks:
            check_equal(comm, network)
        history.train_seconds += time.perf_counter() - started
        history.end_stage(session.passes.take(comm))
        started = time.perf_counter()
        row, task_aware_row = self.evaluator(self.tested, self._classifier())
        history.add(row, task_aware_row)
        if self.anytime is not None:
            self.anytime.after_stage(stage, (row, task_aware_row))
        history.eval_seconds += time.perf_counter() - started
        return row

    def _classifier(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What gives the outputs with the help of the network that is tested; None: that network itself."""
        return None if self.average.beside else self.strategy.classifier()

    def _record(self, stage: int, row: list[float]) -> None:
        """Tell the loggers and callbacks of a test, and save the network."""
        session, history = self.session, self.history
        task_aware_row = history.task_aware_rows[-1] if history.task_aware_rows else None
        tested = told.of_test(history.measure, row, task_aware_row, stage, len(self.stages))
        session.logger.log_test(stage, tested)
        self.plan.callbacks.stage_end(stage, row)
        if session.comm.is_main:
            facts = {"tasks": self.stages[stage], history.measure: row, "config": self.config, **about(self.tested)}
            checkpoint.save_task(self.folder, stage, self.tested, facts)

    def keeps_order(self, stage: int, samples: Rows, training_set: Rows) -> bool:
        """Whether a stage trains on the samples of a stream in their order; what a strategy makes of them has none."""
        return self.plan.scenario.ordered and len(self.stages[stage]) == 1 and training_set is samples

    def steps(self, stage: int, num_samples: int) -> int:
        """How many steps a stage has on so many samples."""
        fixed = self.config["steps"] if self.strategy.trains else None
        return fixed or self.session.recipe.steps(self.plan.epochs[stage], num_samples)

    def _reset_updater(self) -> None:
        self.session.updater.load_state_dict(copy.deepcopy(self.fresh_updater))


def stage_line(
    label: str, stage: int, stages: list[list[int]], loss: float | None, history: History, task_aware: bool
) -> str:  # fmt: skip
    """The line of one stage: accuracies, or errors, are means over the tasks seen so far; `task_aware`: those too.

    The loss, and then the task-aware accuracy, are left out where the terminal has no room for them.
    """
    seen = sorted({task for tasks in stages[: stage + 1] for task in tasks})
    parts = {"label": label, "task": f"task {stage + 1:2}/{len(stages)}"}
    if loss is not None:
        parts["loss"] = f"loss {loss:6.4f}"
    if history.measure == "error":
        parts["error"] = f"error so far {_mean_of(history.rows[-1], seen):.4f}"
    else:
        parts["accuracy"] = f"accuracy so far {100 * _mean_of(history.rows[-1], seen):5.1f} %"
        if history.task_aware_rows and task_aware:
            parts["task-aware"] = f"task-aware {100 * _mean_of(history.task_aware_rows[-1], seen):5.1f} %"
    width = screen.width()
    for name in ("loss", "task-aware"):
        if width is not None and len("  ".join(parts.values())) > width:
            parts.pop(name, None)
    return "  ".join(parts.values())


def _mean_of(row: list[float], tasks: list[int]) -> float:
    return sum(row[task] for task in tasks) / len(tasks)
