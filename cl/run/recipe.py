"""How networks are trained, in one place: optimizer, schedule, precision, gradient accumulation, exchange.

A run has one recipe; merging trains curves and merged networks with that of its run.
"""

import torch
from torch import nn

from cl.build import build
from cl.data.loader import num_batches
from cl.distributed.comm import Comm, ReduceOptions
from cl.reporting.recorder import Recorder
from cl.run.trainer import Trainer
from cl.step.schedules import Schedule
from cl.step.updater import Updater
from cl.strategies.base import Strategy


class Recipe:
    """The options of training in a configuration, for the ranks of `comm`.

    `fewest_samples`: how many samples a batch must have (`networks.backbones.fewest_samples`). The learning rate is
    scaled with the samples of a step where `lr_scaling` asks for it, and warmed up from that of one (Goyal et al.
    2017): linear with their number, sqrt with its root (Krizhevsky 2014).
    """

    def __init__(self, config: dict, comm: Comm, device: torch.device, fewest_samples: int = 1):
        self.config, self.comm, self.device, self.fewest_samples = config, comm, device, fewest_samples
        times = comm.size * config["gradient_accumulation_steps"]
        self.rate_factor = {"none": 1.0, "linear": float(times), "sqrt": times**0.5}[config["lr_scaling"]]
        self.schedule = self.scaled(build(config["schedule"], "schedule"))

    def scaled(self, schedule: Schedule) -> Schedule:
        """A schedule whose warm-up starts with the rate before it was scaled."""
        if self.rate_factor != 1.0:
            schedule.start = 1 / self.rate_factor
        return schedule

    def updater(self, module: nn.Module, changes_gradients: bool = False) -> Updater:
        """A new optimizer for a module, and what stands around its step.

        `changes_gradients`: whether a strategy does so between the exchange and the step. Raises ValueError for options
        that do not go together.
        """
        config = self.config
        reduce = ReduceOptions(**config["reduce"])
        reduce.check_step(config["precision"], config["clip_norm"], changes_gradients)
        optimizer = build(
            config["optimizer"], "optimizer", params=[weight for weight in module.parameters() if weight.requires_grad]
        )
        for group in optimizer.param_groups:
            group["lr"] *= self.rate_factor
        return Updater(
            optimizer, module, self.device, self.comm, reduce, config["precision"], config["clip_norm"],
            config["gradient_accumulation_steps"],
        )  # fmt: skip

    def epoch_steps(self, num_samples: int) -> int:
        """Optimizer steps of one pass over so many samples."""
        size = self.config["batch_size"] * self.config["gradient_accumulation_steps"]
        return num_batches(num_samples, size, self.comm.size, self.fewest_samples)

    def steps(self, epochs: float, num_samples: int) -> int:
        """Optimizer steps of so many passes over so many samples, to the nearest whole number, at least one."""
        return max(1, round(epochs * self.epoch_steps(num_samples)))

    def trainer(self, strategy: Strategy, recorder: Recorder, schedule: Schedule | None = None) -> Trainer:
        """The training loop for a strategy that is set up; `schedule`: None for the recipe's own."""
        return Trainer(strategy, schedule or self.schedule, self.config["batch_size"], self.config["seed"], recorder)
