"""Reorder and mix the neurons of a network: what optimal transport and re-basin have in common."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from merging.align.structure import READS, WRITES, Axis, Group, Structure
from merging.fusion import State


@dataclass(frozen=True)
class Plan:
    """How the n neurons of a model become the m of the anchor.

    `order` [m]: the neuron that takes each place, where the plan is a permutation; otherwise `mass` [n, m], what each
    neuron gives to each place. A place's incoming weights are then the mean of its givers', and a neuron's outgoing
    weights are divided among its places, so that doubled neurons may merge and a single one may be doubled without any
    change of the function. (Singh & Jaggi 2020 take a mean of the outgoing weights as well, which is the same for equal
    widths and uniform marginals.)
    """

    order: torch.Tensor | None = None
    mass: torch.Tensor | None = None

    def apply(self, tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
        """A tensor of the model with one axis in the order of the anchor."""
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
        return self.order is not None and bool((self.order == torch.arange(len(self.order))).all())


def size_in(state: State, group: Group) -> int:
    """The number of a group's channels in a model, which may be wider or narrower than the network traced."""
    axis = group.axes[0]
    return state[axis.name].shape[axis.dim] // axis.repeat


def apply_plans(state: State, plans: dict[Group, Plan]) -> State:
    """The model with the neurons of these groups in their new places."""
    aligned = dict(state)
    for group, plan in plans.items():
        for axis in group.axes:
            aligned[axis.name] = plan.apply(aligned[axis.name], axis)
    return aligned


def rows(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """What an axis' tensor holds of each channel, as [channels, values]."""
    moved = tensor.movedim(axis.dim, 0)
    return moved.reshape(len(moved) // axis.repeat, -1)


def incoming(state: State, group: Group, structure: Structure, known: set[Group]) -> torch.Tensor:
    """[channels, values]: the incoming weights and biases of each channel, from groups that are fixed or `known`.

    Batch-norm's are not among them: without its neuron's weights a scale says little of which neuron it is.
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
        elif state[f"{layer}.weight"].dim() > 1:  # a convolution of each channel alone; batch-norm has one dimension
            found.append(rows(state[axis.name], axis))
    return torch.cat(found, 1)


def sweep(
    structure: Structure, anchor: State, state: State, solve: Callable[[torch.Tensor, torch.Tensor], Plan]
) -> dict[Group, Plan]:
    """A plan for each group, layer by layer: `solve` is given the incoming weights of the model and of the anchor.

    The model's are seen through the plans of the layers before (Singh & Jaggi 2020, Model Fusion via Optimal Transport,
    algorithm 1).
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
                    f"{tuple(value.shape)} in the one and {tuple(anchor[key].shape)} in the other"
                )
