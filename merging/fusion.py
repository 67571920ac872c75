"""The contract of a fusion, which makes one network of several networks with the same architecture.

A fusion takes state dicts and returns a state dict; it never changes its inputs. Buffers (batch-norm statistics) are
averaged, and counters are taken from the first network.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from cl.data.rows import Rows
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Schedule

State = dict[str, torch.Tensor]
BLOCK = 2**17  # weights merged at a time: a few MB for ten models


@dataclass(frozen=True)
class Models:
    """The input of a fusion: `states` of one architecture, and `weights` that sum to one.

    `parameters`: names of the trained tensors. `initial`: the common init of all models, or None. With
    `unequal_widths`, tensors of the same name may differ in size but not in the number of dimensions.
    """

    states: Sequence[State]
    weights: Sequence[float]
    parameters: Sequence[str]
    initial: State | None = None
    names: Sequence[str] = ()  # of the models, for errors
    tasks: Sequence[Sequence[int]] = ()  # training tasks of each model; by default task i for model i
    unequal_widths: bool = False
    merged: int = 0  # with running=true: number of models merged into the first state; 0: it is a single model
    carried: dict[str, float] = field(default_factory=dict)  # notes of a method for its next call with running=true

    def __post_init__(self):
        names = self.names or [f"model {i}" for i in range(len(self.states))]
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "tasks", self.tasks or [[i] for i in range(len(self.states))])
        if not self.states:
            raise ValueError("nothing to merge: expected at least one model")
        if len(self.weights) != len(self.states) or min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(
                f"expected one weight of at least 0 for each of {len(self.states)} models, with the sum 1, got "
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
                    raise ValueError(f"{name} has numbers in {key} that are not finite: leave it out or train it again")

    def need_initial(self, method: str) -> State:
        """The common init; raises ValueError if there is none."""
        if self.initial is None:
            raise ValueError(no_initial(method))
        return self.initial


class Context(Protocol):
    """The merge context as fusions see it: data, training and measurement."""

    network: nn.Module  # scratch network of the models' architecture; a fusion may change its weights
    sample_shape: tuple[int, int, int]  # (C, H, W) of an image
    outputs: TaskOutputs  # which outputs belong to each task, and whether tests know the task

    def labelled(self, tasks: Sequence[int], per_task: int | None, trained: bool = True) -> Rows:
        """Training samples of the tasks: `per_task` random ones of each, or all if it is None.

        `trained`: whether `train` is called with them, which counts them; otherwise they are counted here.
        """

    def images(self, tasks: Sequence[int], count: int) -> torch.Tensor:
        """About `count` training images [N, C, H, W] of the tasks in random order, as the network takes them.

        Each task gives the same number, `count` divided by the number of tasks, at least one.
        """

    def fisher(self, state: State, tasks: Sequence[int], per_task: int | None, labels: str) -> State:
        """The diagonal Fisher information of a network on training samples of the tasks; `labels` as in EWC."""

    def train(self, module: nn.Module, samples: Rows, epochs: float, schedule: Schedule | None = None) -> None:
        """Train a module that maps images to logits, with the run's optimizer.

        `schedule`: the learning rate schedule, None for the run's.
        """

    def stepped(self, steps: int) -> None:
        """Count gradient steps that the fusion takes by itself."""

    def testing(self, tasks: Sequence[int]) -> Rows:
        """The test samples of the tasks, each once."""

    def some(self, samples: Rows, count: int) -> Rows:
        """At most `count` random ones of the samples."""

    def hold_out(self, samples: Rows, fraction: float) -> tuple[Rows, Rows]:
        """Split the samples at random into the rest and a held-out `fraction`, in this order."""

    def score(self, network: nn.Module, samples: Rows) -> tuple[float, float]:
        """Mean cross entropy and accuracy in [0, 1] without augmentation; over the task's classes if task-aware."""

    def recalibrate_batch_norm(self, network: nn.Module, tasks: Sequence[int]) -> None:
        """Recompute the network's batch-norm statistics, if it has any, from images of the tasks."""

    def progress(self, label: str, items: Sequence) -> Iterator:
        """Iterate over the items with a progress bar."""

    def keep(self, statistics: Sequence[State]) -> None:
        """Say what persists in place of all samples that the fusion has asked for so far: such as a Gram matrix.

        For statistics that are computed once, when a network's data are there.
        """

    def record(self, name: str, measure: Callable[[], dict]) -> None:
        """Add what a function measures to results.json; it is called when all is merged, and of the last merge only."""

    def new_network(self, number: int) -> State:
        """The weights of an untrained network, different for each number."""


class Fusion(ABC):
    """A way to merge models; its options are constructor arguments."""

    unequal_widths = False  # whether the models' layers may differ in width
    uses_weights = True  # whether the models' weights change the result
    needs_initial = False  # whether it uses task vectors: weights minus the common init
    needs_tasks = False  # whether it uses data of each model's training tasks
    needs_all_tasks = False  # whether it looks at samples of all tasks at once, which have to be kept until then
    needs_known_task = False  # whether its network has to be told the task of a test sample
    most_models: int | None = None  # largest number of models per call; None: any

    def check(self, network: nn.Module, sample_shape: tuple[int, ...]) -> None:
        """Raise ValueError, which names the layer, for an architecture that the method cannot merge."""

    def check_shapes(self, network: nn.Module, sample_shape: tuple[int, ...], states: Sequence[State]) -> None:
        """Raise ValueError for models whose merge does not fit the network; called only if `unequal_widths`."""

    def used(self, count: int) -> Sequence[int]:
        """Which of `count` models have a say in the result; what the others took is not counted."""
        return range(count)

    @abstractmethod
    def network(self, models: Models, context: Context) -> nn.Module:
        """The merged network."""


class WeightFusion(Fusion):
    """A fusion whose result is the weights of one network."""

    @abstractmethod
    def __call__(self, models: Models, context: Context | None = None) -> State:
        """The merged state dict, on the device of the first model; `context`: for methods that need data."""

    def network(self, models: Models, context: Context) -> nn.Module:
        network, merged = copy.deepcopy(context.network), self(models, context)
        network.load_state_dict(merged)
        return network


class EntryFusion(WeightFusion):
    """A fusion that computes each trained weight from the same weight of the models; buffers are averaged.

    It works in blocks, so that each model is read from memory only once.
    """

    @abstractmethod
    def rule(self, models: Models) -> Callable[[torch.Tensor | None, list[torch.Tensor]], torch.Tensor]:
        """A function that merges a block: it takes the block of the common init, or None, and that of each model.

        It is called for all blocks in order, in single precision or better.
        """

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


def loaded(network: nn.Module, state: State) -> nn.Module:
    """A copy of a network with these weights, whose layers may be of other widths."""
    network = copy.deepcopy(network)
    for name, value in state.items():
        owner, _, own = name.rpartition(".")
        module = network.get_submodule(owner)
        if own in module._parameters:
            module._parameters[own] = nn.Parameter(value.detach().clone(), requires_grad=False)
        else:
            module._buffers[own] = value.detach().clone()
    return network


def no_initial(method: str) -> str:
    """The error message for a method without the common init that it needs."""
    return (
        f"fusion={method} needs models that were trained from a common init, but these have none: train them with "
        "strategy.init=shared, or give the init of files with initial=FILE"
    )


def unscaled(models: Models, scale: float) -> list[float]:
    """The factor of each task vector before a method that multiplies the merged one by `scale`.

    The result of an earlier merge is scaled already, so its factor is 1 / `scale`; that of the others is 1.
    """
    return [1 / scale if models.merged and scale and not number else 1.0 for number in range(len(models.states))]


def blocks(tensors: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Iterate over views of the same entries of several equally shaped tensors, small enough for a CPU cache."""
    if tensors[0].is_cpu and all(tensor.is_contiguous() for tensor in tensors):
        return zip(*(tensor.detach().view(-1).split(BLOCK) for tensor in tensors))
    return iter([tuple(tensor.detach() for tensor in tensors)])


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in single precision or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def flatten(state: State, names: Sequence[str]) -> torch.Tensor:
    """The tensors of these names as one vector, in single precision or better."""
    return torch.cat([widened(state[name].detach()).reshape(-1) for name in names])


def buffers(models: Models) -> State:
    """The mean of the tensors that are not trained; counters are taken from the first model."""
    names = [name for name in models.states[0] if name not in set(models.parameters)]
    return mean_state(models, [{name: state[name] for name in names} for state in models.states])


def mean_state(models: Models, states: Sequence[State]) -> State:
    """The mean of the states with the models' weights; counters are taken from the first state."""
    return {
        name: weighted_mean([state[name] for state in states], models.weights)
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """sum_i weights_i tensors_i for weights that sum to one; equal tensors give the same tensor, to the bit."""
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
            "other; expected equal shapes"
        )
