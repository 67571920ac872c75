"""The merge context: the run's data, networks and training loop, for fusions that need them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cl import seeding, signals
from cl.data.loader import in_order
from cl.data.rows import Rows
from cl.reporting.history import History
from cl.reporting.metrics_file import MetricsFile
from cl.reporting.metrics_file import State as Files
from cl.reporting.progress import Progress
from cl.reporting.recorder import Recorder
from cl.run import costs
from cl.run.session import Session
from cl.run.state import Generators, StateTree
from cl.scenarios.base import Tasks
from cl.step.schedules import Schedule
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.ewc import Ewc
from cl.strategies.finetune import Finetune
from merging import batch_norm
from merging.fusion import Fusion, Models, State
from merging.kept import Kept
from merging.resume import Trained

FIRST_STAGE = 1000  # above the number of any task, so that these random streams differ from those of tasks


class MergeContext:
    """Samples, networks and training with a run's options; the cost of training is added to `history`.

    `kept`: what the merge under way, or the last one, has to keep of the tasks' data.
    """

    def __init__(
        self, session: Session, tasks: Tasks, history: History, folder: Path, batch_norm_samples: int,
        networks: Sequence[State] = (),
    ):  # fmt: skip
        """`networks`: those that are merged, by which an interrupted merge knows what it has trained."""
        self.session, self.config, self.device = session, session.config, session.device
        self.tasks, self.history, self.folder = tasks, history, folder
        self.outputs = session.outputs
        self.network, self.sample_shape = copy.deepcopy(session.model), session.plan.dataset.input_shape
        self.trained, self.finished = 0, Trained(folder, networks)
        self.unlabelled_samples = 0  # used so far
        self.passes, self.kept, self.optimizer_bytes = session.passes, Kept(), 0
        self.metrics: MetricsFile | None = None  # once something is trained
        self.kept_rows: Files | None = None  # of what was trained before this merge was interrupted
        self.restored_seconds = 0.0  # of training that was done before this merge was interrupted
        self.batch_norm_samples = batch_norm_samples
        self.recorded: dict[str, dict | str | None] = {}  # entries of results.json
        self._measures: dict[str, Callable[[], dict]] = {}
        self._batch_norm_images: dict[tuple, torch.Tensor] = {}
        self._recalibrated: set[tuple] = set()  # the keys of those that merging has used

    def fuse(self, fusion: Fusion, models: Models) -> nn.Module:
        """The merged network; what the fusion shows to networks by itself counts as images without labels."""
        self.kept = Kept()
        with self.passes.unlabelled():
            return fusion.network(models, self)

    def images(self, tasks: Sequence[int], count: int) -> torch.Tensor:
        """About `count` training images [N, C, H, W] of the tasks in random order, as the network takes them.

        Each task gives the same number, `count` divided by the number of tasks, at least one.
        """
        chosen = self._images(tasks, count)
        self.unlabelled_samples += len(chosen)
        return chosen

    def _images(self, tasks: Sequence[int], count: int) -> torch.Tensor:
        chosen = self._samples(tasks, max(1, count // len(tasks)), labelled=False).loaded().x
        order = seeding.generator(self.config["seed"], "merging images").permutation(len(chosen))
        return self.session.transform.test(chosen[torch.from_numpy(order).to(chosen.device)])

    def fisher(self, state: State, tasks: Sequence[int], per_task: int | None, labels: str) -> State:
        """The diagonal Fisher information of a network on training samples of the tasks; `labels` as in EWC."""
        network = copy.deepcopy(self.network).to(self.device)
        network.load_state_dict(state)
        strategy, updater = Ewc(lambda_=0.0, gamma=1.0, fisher_labels=labels), self.updater(network)
        seed, transform = self.config["seed"], self.session.transform
        strategy.setup(StrategyContext(network, updater, transform, self.outputs, seed=seed, passes=self.passes))
        labelled = labels == "empirical"
        samples = self._samples(tasks, per_task, labelled)
        if labelled:
            self.history.labelled_samples += len(samples)
        else:
            self.unlabelled_samples += len(samples)
        names = {id(weight): name for name, weight in network.named_parameters()}
        with self.passes.labelled() if labelled else self.passes.unlabelled():
            fisher = strategy.fisher(FIRST_STAGE + tasks[-1], samples)
        return {names[id(weight)]: value for weight, value in zip(updater.weights, fisher)}

    def labelled(self, tasks: Sequence[int], per_task: int | None) -> Rows:
        """Training samples of the tasks: `per_task` random ones of each, or all if it is None."""
        return self._samples(tasks, per_task, labelled=True)

    def _samples(self, tasks: Sequence[int], per_task: int | None, labelled: bool) -> Rows:
        """The samples, or with `labelled` False those whose images alone are used."""
        self._ask(tasks, per_task, labelled)
        if per_task is None:
            samples = self.tasks.training(tasks)
        else:
            samples = Rows.cat([self.some_of(task, per_task) for task in tasks])
        return samples.to(self.device)

    def _ask(self, tasks: Sequence[int], per_task: int | None, labelled: bool) -> None:
        """Note what the merge under way needs, whether or not it has it already."""
        for task in tasks:
            number = self.tasks.num_training([task])
            self.kept.ask(task, number if per_task is None else min(per_task, number), labelled)

    def some_of(self, task: int, count: int) -> Rows:
        """At most `count` random training samples of a task."""
        samples = self.tasks.training([task])
        order = seeding.generator(self.config["seed"], "merging samples", task).permutation(len(samples))
        return _taken(samples, order[:count])

    def train(self, module: nn.Module, samples: Rows, epochs: float, schedule: Schedule | None = None) -> None:
        """Train a module that maps images to logits, with the run's optimizer; not again what was trained before.

        `schedule`: the learning rate schedule, None for the run's.
        """
        number, self.trained = self.trained, self.trained + 1
        module.to(self.device)
        before = self.history.train_seconds
        if self.finished.load(number, self._tree(module)):
            self.restored_seconds += self.history.train_seconds - before
        else:
            with signals.deferred(f"training {number + 1} of this merge is saved, and the same command goes on"):
                self._train(module.train(), samples, epochs, schedule, number)
                self.finished.save(number, self._tree(module))
        module.eval()

    def _tree(self, module: nn.Module) -> StateTree:
        """What is changed by a training."""
        tree = StateTree()
        for name, part in (("module", module), ("history", self.history), ("passes", self.passes), ("costs", self)):
            tree.register(name, part)
        return tree

    def _train(self, module: nn.Module, samples: Rows, epochs: float, schedule: Schedule | None, number: int) -> None:
        recipe, session, strategy = self.session.recipe, self.session, Finetune()
        updater, fewest = self.updater(module), recipe.fewest_samples
        strategy.setup(
            StrategyContext(module, updater, session.transform, self.outputs, fewest_samples=fewest, passes=self.passes)
        )
        steps = recipe.steps(epochs, len(samples))
        recorder = Recorder(self.history, logger=session.logger, log_interval=self.config["log_interval"])
        trainer = recipe.trainer(strategy, recorder, None if schedule is None else recipe.scaled(schedule))
        tree = self._tree(module)
        tree.register("updater", updater)
        tree.register("strategy", strategy)
        tree.register("trainer", trainer, own=True)
        tree.register("transform", session.transform, own=True)
        tree.register("generators", Generators(self.device), own=True)
        before = self.history.train_seconds
        with self.finished.within(number, trainer, tree, session, steps) as position:
            if position is not None:
                self.metrics = None  # its rows are those of the checkpoint
                self.restored_seconds += self.history.train_seconds - before
            recorder.metrics = self._metrics()
            recorder.progress = Progress("merging", steps, position.step if position else 0, self.config["progress"])
            with closing(recorder.progress), self.passes.labelled():
                trainer.train(samples, FIRST_STAGE + number, steps)
        self.optimizer_bytes = max(self.optimizer_bytes, costs.size(updater.state_dict()))

    def state_dict(self) -> dict:
        """What training adds beside history and passes."""
        return {"optimizer_bytes": self.optimizer_bytes, "files": self.files}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned; raises ValueError for that of another version."""
        if state.keys() != {"optimizer_bytes", "files"}:
            raise ValueError(
                f"what was trained for the merge in {self.folder} was written by another version of remerge: "
                "overwrite=true merges again"
            )
        self.optimizer_bytes, self.kept_rows = state["optimizer_bytes"], state["files"]

    @property
    def files(self) -> Files:
        """The files of rows so far, with their checksums."""
        return {} if self.metrics is None and self.kept_rows is None else self._metrics().state_dict()

    def _metrics(self) -> MetricsFile:
        """The rows of this merge, after those that it goes on after."""
        if self.metrics is None:
            self.metrics = MetricsFile(self.folder / "metrics.csv", self.kept_rows)
        return self.metrics

    def forget_costs(self) -> None:
        """Leave out what the merges so far have cost, and their rows."""
        self.metrics = self.kept_rows = None
        self.passes.take(self.session.comm)
        self.history.gradient_steps = self.history.labelled_samples = self.unlabelled_samples = 0
        self.restored_seconds = 0.0

    def updater(self, module: nn.Module) -> Updater:
        """A new updater (optimizer and options of the step) for a module, by the run's recipe."""
        return self.session.recipe.updater(module)

    def testing(self, tasks: Sequence[int]) -> Rows:
        """The test samples of the tasks, each once."""
        return self.tasks.testing_once(tasks, self.device, by_task=self.outputs.task_aware)

    def some(self, samples: Rows, count: int) -> Rows:
        """At most `count` random ones of the samples."""
        return _taken(samples, self._order(samples)[:count])

    def hold_out(self, samples: Rows, fraction: float) -> tuple[Rows, Rows]:
        """Split the samples at random into the rest and a held-out `fraction`, in this order."""
        order = self._order(samples)
        count = max(1, round(fraction * len(samples)))
        return _taken(samples, order[count:]), _taken(samples, order[:count])

    def _order(self, samples: Rows) -> np.ndarray:
        return seeding.generator(self.config["seed"], "merging order").permutation(len(samples))

    @torch.no_grad()
    def score(self, network: nn.Module, samples: Rows) -> tuple[float, float]:
        """Mean cross entropy and accuracy in [0, 1] without augmentation; over the task's classes if task-aware."""
        network.to(self.device).eval()
        loss = correct = torch.zeros((), device=self.device)
        size = self.config["eval_batch_size"]
        for batch in in_order(samples, size):
            with self.passes.labelled():
                logits = network(self.session.transform.test(batch.x)).float()
            logits = self.outputs.for_training(logits, batch.task)
            loss = loss + F.cross_entropy(logits, batch.y, reduction="sum")
            correct = correct + (logits.argmax(1) == batch.y).sum()
        return loss.item() / len(samples), correct.item() / len(samples)

    def recalibrate_batch_norm(self, network: nn.Module, tasks: Sequence[int]) -> None:
        """Recompute the network's batch-norm statistics, if it has any, from images of the tasks."""
        if not batch_norm.has_statistics(network):
            return
        key = tuple(tasks)
        if key not in self._batch_norm_images:  # the same images for every network
            self._batch_norm_images[key] = self._images(tasks, self.batch_norm_samples)
        if key not in self._recalibrated:
            self.unlabelled_samples += len(self._batch_norm_images[key])
            self._recalibrated.add(key)
        self._ask(tasks, max(1, self.batch_norm_samples // len(tasks)), labelled=False)
        with self.passes.unlabelled():
            batch_norm.recompute(network, self._batch_norm_images[key])

    def keep(self, statistics: Sequence[State]) -> None:
        """Say what persists in place of all samples that the fusion has asked for so far."""
        self.kept.replace(costs.size(list(statistics)))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Passes and samples inside this block do not count as merging."""
        before = self.kept, self.unlabelled_samples, set(self._recalibrated)
        self.kept = Kept()
        try:
            with self.passes.paused():
                yield
        finally:
            self.kept, self.unlabelled_samples, self._recalibrated = before

    def progress(self, label: str, items: Sequence) -> Iterator:
        """Iterate over the items with a progress bar."""
        bar = Progress(label, len(items), 0, self.config["progress"])
        try:
            for item in items:
                yield item
                bar.step()
        finally:
            bar.close()

    def record(self, name: str, measure: Callable[[], dict]) -> None:
        """Add what a function measures to results.json; it is called when all is merged, and of the last merge only."""
        self._measures[name] = measure

    def measure(self) -> None:
        """Measure what was asked for."""
        with self.measuring():
            for name, measure in self._measures.items():
                self.recorded[name] = measure()

    def new_network(self, number: int) -> State:
        """The weights of an untrained network, different for each number."""
        return self.session.initial_weights(FIRST_STAGE + number)


def _taken(samples: Rows, order: np.ndarray) -> Rows:
    return samples.part(torch.from_numpy(order).to(samples.y.device))
