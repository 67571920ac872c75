"""The contract of a fusion: from several networks of one architecture to one.

A fusion gets state dicts and gives a state dict; what it gets is never changed. Most methods work on the vector of all
trained weights; buffers (batch-norm statistics) are averaged, and counters are those of the first network.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from cl.scenarios import Samples

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Models:
    """What is merged: `states` of equal architecture, and `weights` that sum to one.

    `parameters` are the names that are trained, `initial` the network from which all of them were, if there is one.
    """

    states: Sequence[State]
    weights: Sequence[float]
    parameters: Sequence[str]
    initial: State | None = None
    names: Sequence[str] = ()  # of the models, for errors

    def __post_init__(self):
        names = self.names or [f"model {i}" for i in range(len(self.states))]
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
            _check_alike(first_name, first, name, state)
        for name, state in everything:
            for key, value in state.items():
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise ValueError(f"{name} has numbers in {key} that are not finite: it cannot be merged")

    def vectors(self) -> list[torch.Tensor]:
        """The trained weights of each model as one vector."""
        return [flatten(state, self.parameters) for state in self.states]

    def task_vectors(self, method: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The vector of the common init, and what each model has moved from there."""
        if self.initial is None:
            raise ValueError(
                f"fusion={method} works on what each model has moved from a common init, and these have none: "
                "train them with strategy.init=shared"
            )
        start = flatten(self.initial, self.parameters)
        return start, [vector - start for vector in self.vectors()]


class Context(Protocol):
    """What a fusion that needs data is given."""

    network: nn.Module  # of the architecture of the models, free to be used

    def labelled(self, tasks: list[int], per_task: int | None) -> Samples:
        """Training samples of some tasks, all or so many of each."""

    def train(self, module: nn.Module, samples: Samples, epochs: int) -> None:
        """Train the parameters of a module that gives logits of images, with the optimizer and schedule of the run."""

    def new_network(self, number: int) -> State:
        """A network before training, another one for each number."""


class Fusion(ABC):
    """Options are constructor arguments."""

    @abstractmethod
    def __call__(self, models: Models, context: "Context | None" = None) -> State:
        """The merged network, on the device of the first one; `context` for the methods that need data."""


class VectorFusion(Fusion):
    """A fusion of the vectors of trained weights."""

    @abstractmethod
    def merge(self, models: Models) -> torch.Tensor:
        """The vector of the merged weights."""

    def __call__(self, models: Models, context: "Context | None" = None) -> State:
        return unflatten(self.merge(models), models)


def flatten(state: State, names: Sequence[str]) -> torch.Tensor:
    """The tensors of these names as one vector, in double precision: sums of many models keep their last digits."""
    return torch.cat([state[name].detach().reshape(-1).double() for name in names])


def unflatten(vector: torch.Tensor, models: Models) -> State:
    """A state with these trained weights, averaged buffers, and the counters of the first model."""
    first = models.states[0]
    sizes = [first[name].numel() for name in models.parameters]
    parts = dict(zip(models.parameters, vector.split(sizes)))
    merged = {}
    for name, value in first.items():
        if name in parts:
            merged[name] = parts[name].view_as(value).to(value.dtype)
        elif value.is_floating_point():
            merged[name] = weighted_mean([state[name].double() for state in models.states], models.weights).to(
                value.dtype
            )
        else:
            merged[name] = value.clone()
    return merged


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """sum_i weights_i tensors_i; equal tensors give themselves."""
    first = tensors[0]
    return first + sum(weight * (tensor - first) for weight, tensor in zip(weights, tensors))


def _check_alike(name: str, state: State, other_name: str, other: State) -> None:
    for key in [*state, *(key for key in other if key not in state)]:
        shapes = [tuple(each[key].shape) if key in each else "nothing" for each in (state, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name} and {other_name} are of different architectures: {key} is {shapes[0]} in the one and "
                f"{shapes[1]} in the other"
            )
