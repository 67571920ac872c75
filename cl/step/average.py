"""Averages of a network's weights along its training, and those over the optimizer steps.

An average over the steps lies beside the network: it is tested and saved, and training goes on with the raw weights.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cl.data.rows import Rows
from cl.distributed.comm import Comm
from cl.distributed.group import equalise_statistics
from cl.networks.lora import adapters
from cl.networks.modes import is_frozen
from cl.values import BelowOne, InnerFraction


@dataclass(frozen=True)
class AverageContext:
    """The parts of a run that an average works on."""

    model: nn.Module  # that is trained
    comm: Comm
    replays: bool  # whether the strategy trains on stored samples beside those of the task
    head: nn.Module | None  # the linear layer with an output for each label; None where targets are computed
    # This rank's images of some samples, as a test shows them, in random batches; equally many on all ranks.
    batches: Callable[[int, Rows], Iterator[torch.Tensor]]  # from the stage and the samples
    # The Fisher information of each weight that is trained: from stage, samples, labels and number (as `Ewc` has them).
    fisher: Callable[[int, Rows, str, int | None], list[torch.Tensor]]


class Average:
    """No average: the network that is trained is tested and saved. Options of the kinds are constructor arguments."""

    beside = False  # whether the averages are in a network of their own
    in_place = False  # whether they take the network's place at the end of each task
    needs_boundaries = False  # whether it has to be told when a task ends
    needs_labels = False
    network: nn.Module | None = None  # where they are `beside`

    def setup(self, context: AverageContext) -> None:
        """Take what the average works on; called once, before anything else."""
        self.context, self.model = context, context.model

    def begin(self) -> None:
        """Start at the weights that the network has now: before the first stage."""

    def before_stage(self) -> None:
        """Called before anything of a stage changes the network."""

    def start_stage(self, stage: int) -> None:
        """Called when the network has the weights with which the stage starts."""

    def each_step(self, step_of: Callable[[], int], steps: int) -> Callable[[], None] | None:
        """What is called after each of the `steps` steps of a stage; `step_of` tells how many are done."""
        return None

    def end_stage(self, stage: int, samples: Rows, training_set: Callable[[], Rows]) -> None:
        """Called after the last step of a stage, with its samples, and what gives all that it was trained on."""

    def state_dict(self) -> dict:
        """What it needs to go on, at any time between two steps."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""


class Ema(Average):
    """average <- `decay` average + (1 - `decay`) weights, after each step; it begins at the weights of the start.

    A temporal ensemble (Soutif-Cormerais et al. 2023, Improving Online Continual Learning Performance and Stability
    with Temporal Ensembles, eqs. 5 and 6): training goes on with the raw weights. They take a decay of 0.99. The
    statistics of batch-norm are averaged in the same way (as in the published code); counters are the network's.
    """

    beside = True

    def __init__(self, decay: InnerFraction = 0.99):
        self.decay = decay
        self.before: dict[str, torch.Tensor] = {}

    def setup(self, context: AverageContext) -> None:
        super().setup(context)
        average = get_ema_multi_avg_fn(self.decay)
        self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.begin()

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.averaged.module

    def begin(self) -> None:
        self.network.load_state_dict(self.model.state_dict())
        self.averaged.n_averaged.fill_(1)  # 0 would take the weights after the first step as the start

    def before_stage(self) -> None:
        self.before = {name: value.clone() for name, value in self.model.state_dict().items()}

    def start_stage(self, stage: int) -> None:
        """Start anew if the stage does not go on with the weights of the one before."""
        if any(not torch.equal(value, self.before[name]) for name, value in self.model.state_dict().items()):
            self.begin()
        self.before = {}

    def each_step(self, step_of: Callable[[], int], steps: int) -> Callable[[], None]:
        return self.update

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.averaged.update_parameters(self.model)
        _take_counters(self.network, self.model)

    def state_dict(self) -> dict:
        """The averaged weights, which are all that it needs to go on."""
        return adapters(self.network).state_dict()

    def load_state_dict(self, state: dict) -> None:
        adapters(self.network).load_state_dict(state)


class Swa(Average):
    """The equal mean of the weights after each step of a task, from the share `start` of its steps on.

    Stochastic weight averaging (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better
    Generalization, Algorithm 1): training goes on with the raw weights. They take in the weights once per epoch or
    cycle, here that is done after each step. `batch_norm` data: the statistics are computed anew by one pass over what
    the task was trained on (their section 3.2), without augmentation; steps: their mean over the same steps as that of
    the weights, which also has those of replayed samples; None: data, and steps for a strategy that stores samples.
    """

    beside = needs_boundaries = True

    def __init__(self, start: BelowOne = 0.75, batch_norm: Literal["data", "steps"] | None = None):
        self.start, self.batch_norm = start, batch_norm

    def setup(self, context: AverageContext) -> None:
        super().setup(context)
        self.network = copy.deepcopy(self.model)  # of the task before, until the first step that counts
        self.count = 0  # of the steps whose weights are in the mean
        self.from_data = (self.batch_norm or ("steps" if context.replays else "data")) == "data"

    def begin(self) -> None:
        self.network.load_state_dict(self.model.state_dict())

    def start_stage(self, stage: int) -> None:
        self.count = 0

    def each_step(self, step_of: Callable[[], int], steps: int) -> Callable[[], None]:
        first = int(self.start * steps)
        return lambda: self.update() if step_of() > first else None

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.count += 1
        if self.count == 1:
            self.begin()
            return
        own, new = (
            [value for value in (*network.parameters(), *network.buffers()) if value.is_floating_point()]
            for network in (self.network, self.model)
        )
        torch._foreach_lerp_(own, new, 1 / self.count)
        _take_counters(self.network, self.model)

    @torch.no_grad()
    def end_stage(self, stage: int, samples: Rows, training_set: Callable[[], Rows]) -> None:
        layers = [layer for layer in self.network.modules() if _has_statistics(layer)]
        if not self.from_data or not layers:
            return
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()
        for images in self.context.batches(stage, training_set()):
            self.network(images)
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
        _take_counters(self.network, self.model)
        equalise_statistics(self.context.comm, self.network, average=True)

    def state_dict(self) -> dict:
        return {"network": adapters(self.network).state_dict(), "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        adapters(self.network).load_state_dict(state["network"])
        self.count = state["count"]


def _take_counters(network: nn.Module, model: nn.Module) -> None:
    for own, buffer in zip(network.buffers(), model.buffers()):
        if not buffer.is_floating_point():
            own.copy_(buffer)


def _has_statistics(layer: nn.Module) -> bool:
    frozen = is_frozen(layer)
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats and not frozen
