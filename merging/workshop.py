"""The data and the training loop, for fusions that need them: those of the run."""

import copy
from pathlib import Path

import torch
from torch import nn

from cl import seeding
from cl.build import build
from cl.comm import ReduceOptions
from cl.experiment import Components, initial_weights
from cl.history import History
from cl.loader import num_batches
from cl.progress import Progress
from cl.results import MetricsFile
from cl.scenarios import Samples, Tasks
from cl.strategies.finetune import Finetune
from cl.trainer import Trainer
from cl.updater import Updater

FIRST_STAGE = 1000  # streams of random numbers that no task has


class Workshop:
    """Samples, networks and training with a run's options; what training costs is added to `history`."""

    def __init__(
        self,
        config: dict,
        parts: Components,
        tasks: Tasks,
        foreign_outputs: torch.Tensor | None,
        history: History,
        folder: Path,
    ):
        self.config, self.parts, self.tasks, self.history, self.folder = config, parts, tasks, history, folder
        self.foreign_outputs = foreign_outputs if parts.scenario.task_known else None
        self.network = copy.deepcopy(parts.model)
        self.trained = 0

    def labelled(self, tasks: list[int], per_task: int | None) -> Samples:
        """Training samples of some tasks, all or so many of each."""
        if per_task is None:
            return self.tasks.training(tasks).to(self.parts.device)
        chosen = []
        for task in tasks:
            samples = self.tasks.training([task])
            order = seeding.generator(self.config["seed"], "merging samples", task).permutation(len(samples))[:per_task]
            chosen.append(Samples(samples.x[order], samples.y[order], samples.task[order]))
        columns = (torch.cat([getattr(part, name) for part in chosen]) for name in ("x", "y", "task"))
        return Samples(*columns).to(self.parts.device)

    def train(self, module: nn.Module, samples: Samples, epochs: int) -> None:
        """Train the parameters of a module that gives logits of images, with the optimizer and schedule of the run."""
        config, parts = self.config, self.parts
        module.to(parts.device).train()
        optimizer = build(config["optimizer"], "optimizer", params=module.parameters())
        updater = Updater(
            optimizer, module, parts.device, parts.comm, ReduceOptions(), config["precision"], config["clip_norm"],
            config["passes"],
        )  # fmt: skip
        strategy = Finetune()
        strategy.setup(module, updater, parts.transform, None, self.foreign_outputs)
        steps = epochs * num_batches(len(samples), config["batch_size"] * config["passes"])
        progress = Progress("merging", steps, 0, config["progress"])
        metrics = MetricsFile(self.folder / "metrics.csv", self.history.gradient_steps)
        trainer = Trainer(
            strategy, parts.schedule, config["batch_size"], config["seed"], parts.device, config["log_interval"],
            self.history, progress, metrics, parts.logger, parts.comm,
        )  # fmt: skip
        try:
            trainer.train(samples, FIRST_STAGE + self.trained, steps)
        finally:
            progress.close()
        self.trained += 1
        module.eval()

    def new_network(self, number: int) -> dict[str, torch.Tensor]:
        """A network before training, another one for each number."""
        return initial_weights(self.config, self.parts, FIRST_STAGE + number)
