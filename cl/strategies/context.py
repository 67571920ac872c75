"""What a strategy works on, handed over once by `Strategy.setup`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from cl.buffers.base import ReplayBuffer
from cl.data.transforms import BatchTransform
from cl.scenarios.outputs import TaskOutputs
from cl.step.objectives import Objective
from cl.step.passes import Passes
from cl.step.updater import Updater


@dataclass(frozen=True)
class StrategyContext:
    """The parts of a run that a strategy uses; a strategy that needs less than a whole run is given less."""

    model: nn.Module  # with the weights that are trained
    updater: Updater
    transform: BatchTransform
    outputs: TaskOutputs  # of the network, by task
    objective: Objective | None = None  # None: the labels, by cross entropy
    # What computes with the weights of `model`, compiled; None: the model itself.
    network: Callable[..., torch.Tensor] | None = None
    buffer: ReplayBuffer | None = None
    capacity: int | None = None  # samples that may be stored on all ranks together
    stages: Sequence[Sequence[int]] = ()  # the tasks of each stage of training
    # The state dict of a network before training: 0 is that of `model`, other numbers are other random weights.
    initial_weights: Callable[[int], dict[str, torch.Tensor]] | None = None
    seed: int = 0
    passes: Passes = field(default_factory=Passes)  # through the network
    fewest_samples: int = 1  # on which the network can be trained at once (`backbones.fewest_samples`)
