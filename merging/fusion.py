"""The contract of a fusion: from several networks of one architecture to one.

A fusion gets state dicts and gives a state dict; what it gets is never changed. Most methods work on the vector of all
trained weights; buffers (batch-norm statistics) are averaged, and counters are those of the first network.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from cl.scenarios import Samples
from cl.schedules import Schedule

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Models:
    """What is merged: `states` of equal architecture, and `weights` that sum to one.

    `parameters` are the names that are trained, `initial` the network from which all of them were, if there is one.
    With `unequal_widths` tensors of the same name may differ in size, not in the number of dimensions.
    """

    states: Sequence[State]
    weights: Sequence[float]
    parameters: Sequence[str]
    initial: State | None = None
    names: Sequence[str] = ()  # of the models, for errors
    tasks: Sequence[Sequence[int]] = ()  # that each model was trained on; by default model i on task i
    unequal_widths: bool = False

    def __post_init__(self):
        names = self.names or [f"model {i}" for i in range(len(self.states))]
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "tasks", self.tasks or [[i] for i in range(len(self.states))])
        if not self.states:
            raise ValueError("nothing to merge: expected at least one model")
        if len(self.weights) != len(self.states) or min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(
                f"expected a weight of 0 or more for each of {len(self.states)} models, with the sum 1, got "
                f"{list(self.weights)}"
            )
        everything = list(zip(names, self.states))
        if self.initial is not None:
            everything.append(("the common init", self.initial))
        first_name, first = everything[0]
        for name, state in everything[1:]:
            _check_alike(first_name, first, name, state, self.unequal_widths)
        for name, state in everything:
            for key, value in state.items():
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise ValueError(f"{name} has numbers in {key} that are not finite: it cannot be merged")

    def vectors(self) -> list[torch.Tensor]:
        """The trained weights of each model as one vector."""
        return [flatten(state, self.parameters) for state in self.states]

    def task_vectors(self, method: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The vector of the common init, and what each model has moved from there."""
        start = flatten(self.need_initial(method), self.parameters)
        return start, [vector - start for vector in self.vectors()]

    def need_initial(self, method: str) -> State:
        """The common init; raises ValueError where there is none."""
        if self.initial is None:
            raise ValueError(
                f"fusion={method} works on what each model has moved from a common init, and these have none: "
                "train them with strategy.init=shared"
            )
        return self.initial


class Context(Protocol):
    """What a fusion that needs data is given."""

    network: nn.Module  # of the architecture of the models, free to be used
    sample_shape: tuple[int, int, int]  # of an image

    def labelled(self, tasks: Sequence[int], per_task: int | None) -> Samples:
        """Training samples of some tasks, all or so many of each."""

    def images(self, tasks: Sequence[int], count: int) -> torch.Tensor:
        """So many training images of some tasks, equally many of each, mixed, as the network takes them; no labels."""

    def fisher(self, state: State, tasks: Sequence[int], per_task: int | None, labels: str) -> State:
        """The diagonal Fisher information of a network on training samples of some tasks; `labels` as in EWC."""

    def train(self, module: nn.Module, samples: Samples, epochs: int, schedule: Schedule | None = None) -> None:
        """Train the parameters of a module that gives logits of images, with the optimizer of the run.

        `schedule`: that of the learning rate, None for the run's.
        """

    def testing(self, tasks: Sequence[int]) -> Samples:
        """The test samples of some tasks."""

    def some(self, samples: Samples, count: int) -> Samples:
        """Up to so many of them, at random."""

    def hold_out(self, samples: Samples, share: float) -> tuple[Samples, Samples]:
        """The others, and a random share of them."""

    def score(self, network: nn.Module, samples: Samples) -> tuple[float, float]:
        """Mean cross entropy and accuracy of a network, not augmented; over the task's own outputs if it is known."""

    def settle(self, network: nn.Module, tasks: Sequence[int]) -> None:
        """Take a network's batch-norm statistics anew from images of some tasks, if it has any."""

    def measuring(self) -> AbstractContextManager:
        """Within it, the time does not count as merging."""

    def progress(self, label: str, items: Sequence) -> Iterator:
        """The items, with a progress bar."""

    def record(self, name: str, content: dict) -> None:
        """An entry of results.json."""

    def new_network(self, number: int) -> State:
        """A network before training, another one for each number."""


class Fusion(ABC):
    """Options are constructor arguments."""

    unequal_widths = False  # whether the models' layers may differ in width

    @abstractmethod
    def network(self, models: Models, context: Context) -> nn.Module:
        """What the models are merged into."""


class WeightFusion(Fusion):
    """A fusion into the weights of one network."""

    @abstractmethod
    def __call__(self, models: Models, context: Context | None = None) -> State:
        """The merged network, on the device of the first one; `context` for the methods that need data."""

    def network(self, models: Models, context: Context) -> nn.Module:
        network, merged = copy.deepcopy(context.network), self(models, context)
        for name, value in network.state_dict().items():
            if value.shape != merged[name].shape:
                raise ValueError(
                    f"the merged network has {tuple(merged[name].shape)} in {name}, the configured backbone "
                    f"{tuple(value.shape)}: give backbone the widths of the anchor, or another fusion.anchor"
                )
        network.load_state_dict(merged)
        return network


class VectorFusion(WeightFusion):
    """A fusion of the vectors of trained weights."""

    @abstractmethod
    def merge(self, models: Models) -> torch.Tensor:
        """The vector of the merged weights."""

    def __call__(self, models: Models, context: Context | None = None) -> State:
        return unflatten(self.merge(models), models)


def flatten(state: State, names: Sequence[str]) -> torch.Tensor:
    """The tensors of these names as one vector, in double precision: sums of many models keep their last digits."""
    return torch.cat([state[name].detach().reshape(-1).double() for name in names])


def unflatten(vector: torch.Tensor, models: Models) -> State:
    """A state with these trained weights, averaged buffers, and the counters of the first model."""
    first = models.states[0]
    sizes = [first[name].numel() for name in models.parameters]
    parts = dict(zip(models.parameters, vector.split(sizes)))
    buffers = mean_state(models, [{name: s[name] for name in s if name not in parts} for s in models.states])
    return {
        name: parts[name].view_as(value).to(value.dtype) if name in parts else buffers[name]
        for name, value in first.items()
    }


def mean_state(models: Models, states: Sequence[State]) -> State:
    """The mean of states with the models' weights; counters are those of the first."""
    merged = {}
    for name, value in states[0].items():
        if value.is_floating_point():
            mean = weighted_mean([state[name].double() for state in states], models.weights)
            merged[name] = mean.to(value.dtype)
        else:
            merged[name] = value.clone()
    return merged


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """sum_i weights_i tensors_i; equal tensors give themselves."""
    first = tensors[0]
    return first + sum(weight * (tensor - first) for weight, tensor in zip(weights, tensors))


def _check_alike(name: str, state: State, other_name: str, other: State, unequal_widths: bool) -> None:
    for key in [*state, *(key for key in other if key not in state)]:
        shapes = [tuple(each[key].shape) if key in each else None for each in (state, other)]
        if shapes[0] == shapes[1] or unequal_widths and None not in shapes and len(shapes[0]) == len(shapes[1]):
            continue
        own, others = (shape if shape is not None else "nothing" for shape in shapes)
        raise ValueError(
            f"{name} and {other_name} are of different architectures: {key} is {own} in the one and {others} in the "
            "other"
        )
