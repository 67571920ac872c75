"""The contract of a fusion: from several networks of one architecture to one.

A fusion gets state dicts and gives a state dict; what it gets is never changed. Buffers (batch-norm statistics) are
averaged, and counters are those of the first network.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from cl.data.rows import Rows
from cl.step.schedules import Schedule

State = dict[str, torch.Tensor]
BLOCK = 2**17  # weights that are merged at a time: of ten models, a few MB


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
    merged: int = 0  # where models come one at a time: how many the first state is the merge of; 0: it is a model
    carried: dict[str, float] = field(default_factory=dict)  # what a method writes there for its next call

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

    def need_initial(self, method: str) -> State:
        """The common init; raises ValueError where there is none."""
        if self.initial is None:
            raise ValueError(no_initial(method))
        return self.initial


class Context(Protocol):
    """What a fusion that needs data is given."""

    network: nn.Module  # of the architecture of the models, free to be used
    sample_shape: tuple[int, int, int]  # of an image

    def labelled(self, tasks: Sequence[int], per_task: int | None) -> Rows:
        """Training samples of some tasks, all or so many of each."""

    def images(self, tasks: Sequence[int], count: int) -> torch.Tensor:
        """So many training images of some tasks, equally many of each, mixed, as the network takes them; no labels."""

    def fisher(self, state: State, tasks: Sequence[int], per_task: int | None, labels: str) -> State:
        """The diagonal Fisher information of a network on training samples of some tasks; `labels` as in EWC."""

    def train(self, module: nn.Module, samples: Rows, epochs: int, schedule: Schedule | None = None) -> None:
        """Train the parameters of a module that gives logits of images, with the optimizer of the run.

        `schedule`: that of the learning rate, None for the run's.
        """

    def testing(self, tasks: Sequence[int]) -> Rows:
        """The test samples of some tasks."""

    def some(self, samples: Rows, count: int) -> Rows:
        """Up to so many of them, at random."""

    def hold_out(self, samples: Rows, share: float) -> tuple[Rows, Rows]:
        """The others, and a random share of them."""

    def score(self, network: nn.Module, samples: Rows) -> tuple[float, float]:
        """Mean cross entropy and accuracy of a network, not augmented; over the task's own outputs if it is known."""

    def recalibrate_batch_norm(self, network: nn.Module, tasks: Sequence[int]) -> None:
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
    uses_weights = True  # whether the models' weights have a say
    needs_initial = False  # whether it works on what each model has moved from a common init
    needs_tasks = False  # whether it uses data of the task that each model was trained on
    most_models: int | None = None  # that it merges at once

    def check(self, network: nn.Module, sample_shape: tuple[int, ...]) -> None:
        """Raise ValueError that names the layer for an architecture that the method cannot merge."""

    def check_shapes(self, network: nn.Module, sample_shape: tuple[int, ...], states: Sequence[State]) -> None:
        """Raise ValueError for models whose merge does not fit the network; only where `unequal_widths` are allowed."""

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
        network.load_state_dict(merged)
        return network


class EntryFusion(WeightFusion):
    """A fusion of every trained weight by itself; buffers are averaged.

    It is worked out in blocks, so that each model is read from memory once, whatever the method does with it.
    """

    @abstractmethod
    def rule(self, models: Models) -> Callable[[torch.Tensor | None, list[torch.Tensor]], torch.Tensor]:
        """What gives a block of merged weights from the same block of the common init, None without one, and of each
        model. It is called for block after block, in order, with single precision or better."""

    def __call__(self, models: Models, context: Context | None = None) -> State:
        rule, merged = self.rule(models), buffers(models)
        for name in models.parameters:
            out = merged[name] = torch.empty_like(models.states[0][name])
            tensors = [out, *(state[name] for state in models.states)]
            if models.initial is not None:
                tensors.append(models.initial[name])
            for block, *parts in blocks(tensors):
                parts = [widened(part) for part in parts]
                start = parts.pop() if models.initial is not None else None
                block.copy_(rule(start, parts))
        return {name: merged[name] for name in models.states[0]}


def no_initial(method: str) -> str:
    """What to say where a method lacks the common init."""
    return (
        f"fusion={method} works on what each model has moved from a common init, and these have none: train them with "
        "strategy.init=shared, or give the init of files with initial=FILE"
    )


def unscaled(models: Models, scale: float) -> list[float]:
    """What each task vector is multiplied with before a method that scales the merged one by `scale`.

    One that was merged before has been scaled already, and that counts once.
    """
    return [1 / scale if models.merged and scale and not number else 1.0 for number in range(len(models.states))]


def blocks(tensors: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of the same entries of tensors of one shape, few enough for a processor's cache."""
    if tensors[0].is_cpu and all(tensor.is_contiguous() for tensor in tensors):
        return zip(*(tensor.detach().view(-1).split(BLOCK) for tensor in tensors))
    return iter([tuple(tensor.detach() for tensor in tensors)])


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In single precision or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def flatten(state: State, names: Sequence[str]) -> torch.Tensor:
    """The tensors of these names as one vector, in single precision or better."""
    return torch.cat([widened(state[name].detach()).reshape(-1) for name in names])


def buffers(models: Models) -> State:
    """The mean of what is not trained; counters are those of the first model."""
    names = [name for name in models.states[0] if name not in set(models.parameters)]
    return mean_state(models, [{name: state[name] for name in names} for state in models.states])


def mean_state(models: Models, states: Sequence[State]) -> State:
    """The mean of states with the models' weights; counters are those of the first."""
    return {
        name: weighted_mean([state[name] for state in states], models.weights)
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """sum_i weights_i tensors_i; equal tensors give themselves."""
    mean = torch.empty_like(tensors[0])
    for block, *parts in blocks([mean, *tensors]):
        total = weights[0]
        running = block.copy_(parts[0]) if widened(block) is block else widened(parts[0]).clone()
        for part, weight in zip(parts[1:], weights[1:]):
            total += weight
            if weight:
                running.lerp_(widened(part), weight / total)
        if running is not block:
            block.copy_(running)
    return mean


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
