"""Reorder and mix the neurons of a network: the part that optimal transport and re-basin share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from merging.align.structure import READS, WRITES, Axis, Group, Structure
from merging.fusion import State


@dataclass(frozen=True)
class Plan:
    """A transport plan from the n neurons of a model to the m neurons of the anchor.

    For a permutation, `order` [m] holds the model's neuron for each neuron of the anchor. Otherwise `mass` [n, m] holds
    the mass that each neuron of the model sends to each of the anchor. The incoming weights of an anchor's neuron are
    then the mean over the neurons that send mass to it, and the outgoing weights of a model's neuron are divided among
    the neurons that receive its mass. So merging equal neurons, or doubling one, does not change the function. (Singh &
    Jaggi 2020 take a mean of the outgoing weights as well, which is the same for equal widths and uniform marginals.)
    """

    order: torch.Tensor | None = None
    mass: torch.Tensor | None = None

    def apply(self, tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
        """The model's tensor with one axis in the order of the anchor."""
        if self.order is not None:
            order = self.order.to(tensor.device)
            if axis.repeat > 1:
                order = (order[:, None] * axis.repeat + torch.arange(axis.repeat, device=tensor.device)).flatten()
            return tensor.index_select(axis.dim, order)
        mass = self.mass.to(tensor.device, tensor.dtype)
        mass = mass / mass.sum(0, keepdim=True) if axis.role == WRITES else mass / mass.sum(1, keepdim=True)
        moved = tensor.movedim(axis.dim, 0)
        mixed = mass.T @ moved.reshape(len(mass), -1)
        return mixed.reshape(mass.shape[1] * axis.repeat, *moved.shape[1:]).movedim(0, axis.dim)

    @property
    def is_identity(self) -> bool:
        """Whether the plan leaves every neuron in its place."""
        return self.order is not None and bool((self.order == torch.arange(len(self.order))).all())


def size_in(state: State, group: Group) -> int:
    """The number of a group's channels in a model, which may be wider or narrower than the traced network."""
    axis = group.axes[0]
    return state[axis.name].shape[axis.dim] // axis.repeat


def apply_plans(state: State, plans: dict[Group, Plan]) -> State:
    """The model with the neurons of the groups moved according to their plans."""
    aligned = dict(state)
    for group, plan in plans.items():
        for axis in group.axes:
            aligned[axis.name] = plan.apply(aligned[axis.name], axis)
    return aligned


def rows(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The values of each channel along an axis of a tensor, as [channels, values]."""
    moved = tensor.movedim(axis.dim, 0)
    return moved.reshape(len(moved) // axis.repeat, -1)


def incoming(state: State, group: Group, structure: Structure, known: set[Group]) -> torch.Tensor:
    """[channels, values]: the incoming weights and biases of each channel from fixed groups and groups in `known`.

    Without those of batch-norm: a scale alone says little about which neuron it belongs to.
    """
    found = []
    for axis in group.axes:
        if axis.role != WRITES or not axis.name.endswith((".weight", ".bias")):
            continue
        layer = axis.name.rpartition(".")[0]
        if f"{layer}.weight" in structure.ends:
            columns = structure.ends[f"{layer}.weight"][1]
            if columns.fixed or columns in known or columns.size == 1:
                found.append(rows(state[axis.name], axis))
        elif state[f"{layer}.weight"].dim() > 1:  # depthwise convolution; batch-norm has one dimension
            found.append(rows(state[axis.name], axis))
    return torch.cat(found, 1)


def sweep(
    structure: Structure, anchor: State, state: State, solve: Callable[[torch.Tensor, torch.Tensor], Plan]
) -> dict[Group, Plan]:
    """Find a plan for each group, layer by layer: `solve` maps incoming weights of model and anchor to a plan.

    The plans of earlier layers are applied to the model's incoming weights before (Singh & Jaggi 2020, Model Fusion via
    Optimal Transport, algorithm 1).
    """
    plans: dict[Group, Plan] = {}
    current = dict(state)
    for group in structure.groups:
        known = set(plans)
        plan = solve(incoming(current, group, structure, known), incoming(anchor, group, structure, known))
        plans[group] = plan
        for axis in group.axes:
            if axis.role == READS:
                current[axis.name] = plan.apply(current[axis.name], axis)
    return plans


def check_widths(anchor: State, state: State, structure: Structure, names: tuple[str, str]) -> None:
    """Raise ValueError for a model that differs from the anchor in more than the widths of its layers."""
    free = {(axis.name, axis.dim) for group in structure.groups for axis in group.axes}
    for key, value in state.items():
        for dim, (own, other) in enumerate(zip(value.shape, anchor[key].shape)):
            if own != other and (key, dim) not in free:
                raise ValueError(
                    f"{names[0]} and {names[1]} differ in more than the widths of hidden layers: {key} is "
                    f"{tuple(value.shape)} in the one and {tuple(anchor[key].shape)} in the other; expected equal sizes"
                )
