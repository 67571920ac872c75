"""Fusion by optimal transport (Singh & Jaggi 2020, Model Fusion via Optimal Transport), solved by the POT library."""

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import nn

from cl.values import Count, Natural, Positive
from merging.align.alignment import Plan, apply_plans, check_widths, sweep
from merging.align.repair import check_once, repair
from merging.align.responses import responses
from merging.align.structure import Group, Structure, trace
from merging.fusion import Context, Models, State, WeightFusion, mean_state, widened


class Ot(WeightFusion):
    """The mean of the models after each was transported, layer by layer, to the neurons of the anchor.

    `cost` between two neurons: the squared distance of their incoming "weights", or of their "activations" on `samples`
    images without labels, as the next layer reads them. `solver`: "emd" (exact), "sinkhorn" or "unbalanced". `reg`:
    entropic regularisation of the last two, in units of the mean cost; `reg_marginal`: that of the marginals in
    "unbalanced". `marginals`: "uniform", or the "norm" of the incoming weights. `anchor`: the "first" model, the
    "widest", a "random" network, or a "barycentre", which takes the mean as the next anchor up to `rounds` times. The
    merged network has the widths of the anchor. `repair`: see `merging.align.repair`, images for it, 0 for none.
    """

    unequal_widths = True

    def __init__(
        self,
        cost: Literal["weights", "activations"] = "weights",
        solver: Literal["emd", "sinkhorn", "unbalanced"] = "emd",
        reg: Positive = 0.05,
        reg_marginal: Positive = 1.0,
        marginals: Literal["uniform", "norm"] = "uniform",
        anchor: Literal["first", "widest", "random", "barycentre"] = "first",
        rounds: Count = 10,
        samples: Count = 100,
        repair: Natural = 0,
    ):
        self.cost, self.solver, self.reg, self.reg_marginal, self.marginals = cost, solver, reg, reg_marginal, marginals
        self.anchor, self.rounds, self.samples, self.repair = anchor, rounds, samples, repair

    def __call__(self, models: Models, context: Context) -> State:
        structure = trace(context.network, context.sample_shape)
        images = None
        if self.cost == "activations":
            images = context.images(sorted(set(chain(*models.tasks))), self.samples)
        anchor = context.new_network(0) if self.anchor == "random" else self.chosen(models.states)
        for name, state in zip(models.names, models.states):
            check_widths(anchor, state, structure, ("the anchor", name))
        for _ in range(self.rounds if self.anchor == "barycentre" else 1):
            aligned = [self.align(structure, anchor, state, context, images) for state in models.states]
            merged = mean_state(models, aligned)
            if all(torch.equal(merged[name], anchor[name]) for name in merged):
                break
            anchor = merged
        if self.repair:
            images = context.images(sorted(set(chain(*models.tasks))), self.repair)
            return repair(context.network, merged, aligned, models.weights, images)
        return merged

    def check(self, network: nn.Module, sample_shape: tuple[int, ...]) -> None:
        trace(network, sample_shape)
        if self.repair:
            check_once(network, sample_shape)

    def check_shapes(self, network: nn.Module, sample_shape: tuple[int, ...], states: Sequence[State]) -> None:
        own = network.state_dict()
        anchor = own if self.anchor == "random" else self.chosen(states)
        for name, value in own.items():
            if value.shape != anchor[name].shape:
                raise ValueError(
                    f"the merged network has {name} of shape {tuple(anchor[name].shape)}, the configured backbone "
                    f"{tuple(value.shape)}: give backbone the widths of the anchor, or choose another fusion.anchor"
                )
        structure = trace(network, sample_shape)
        for number, state in enumerate(states, start=1):
            check_widths(anchor, state, structure, ("the anchor", f"network {number}"))

    def chosen(self, states: Sequence[State]) -> State:
        """The model that is the first anchor."""
        if self.anchor == "widest":
            return max(states, key=lambda state: sum(value.numel() for value in state.values()))
        return states[0]

    def align(
        self, structure: Structure, anchor: State, state: State, context: Context, images: torch.Tensor | None
    ) -> State:
        """The model with the anchor's widths and order of neurons."""
        if state is anchor:
            return dict(state)
        return apply_plans(state, self.plans(structure, anchor, state, context, images))

    def plans(
        self, structure: Structure, anchor: State, state: State, context: Context, images: torch.Tensor | None
    ) -> dict[Group, Plan]:
        """The plan of each group, from weights, or from activations on the images."""
        if images is None:
            return sweep(structure, anchor, state, self.solve)
        own, other = (responses(context.network, weights, structure, images) for weights in (state, anchor))
        return {group: self.solve(own[group], other[group]) for group in structure.groups}

    def solve(self, model: torch.Tensor, anchor: torch.Tensor) -> Plan:
        """The plan between the neurons of model and anchor, given as the rows of two matrices."""
        cost = squared_distances(model, anchor).cpu().numpy()
        masses = [self.mass(rows) for rows in (model, anchor)]
        plan = transport(cost, *masses, self.solver, self.reg, self.reg_marginal)
        own, other = np.nonzero(plan)
        if len(own) == len(model) == len(anchor) == len(np.unique(other)):  # a permutation: each has one partner
            order = np.empty_like(own)
            order[other] = own
            return Plan(order=torch.from_numpy(order))
        return Plan(mass=torch.from_numpy(plan))

    def mass(self, rows: torch.Tensor) -> np.ndarray:
        """[n]: the mass of each neuron, with the sum 1."""
        mass = (
            torch.ones(len(rows), dtype=torch.float64)
            if self.marginals == "uniform"
            else rows.norm(dim=1).double().cpu()
        )
        return (mass / mass.sum()).numpy()


def squared_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The squared distances [n, m] between the rows of two matrices [n, d] and [m, d]."""
    first, second = widened(first), widened(second)
    squares = first.square().sum(1)[:, None] + second.square().sum(1)
    return torch.addmm(squares, first, second.T, alpha=-2).clamp_(min=0)


def transport(
    cost: np.ndarray, own: np.ndarray, other: np.ndarray, solver: str, reg: float, reg_marginal: float
) -> np.ndarray:
    """The transport plan [n, m] for a cost [n, m] and the marginals `own` [n] and `other` [m].

    Raises ValueError if Sinkhorn's iteration does not converge or a neuron gets no mass.
    """
    import ot  # here, because the import takes a second

    if solver == "emd":
        return ot.emd(own, other, cost, numItermax=10**7)
    cost = cost / max(cost.mean(), np.finfo(np.float64).tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # POT only warns when a solver does not converge
        try:
            if solver == "sinkhorn":
                plan = ot.sinkhorn(own, other, cost, reg, method="sinkhorn_log", numItermax=10**4, stopThr=1e-6)
            else:
                plan = ot.unbalanced.sinkhorn_unbalanced(own, other, cost, reg, reg_marginal, numItermax=10**4)
        except UserWarning as error:
            raise ValueError(f"fusion.solver={solver} did not converge: {error}; raise fusion.reg={reg}") from error
    if not np.isfinite(plan).all() or not plan.sum(0).all() or not plan.sum(1).all():
        raise ValueError(
            f"fusion.solver={solver} with fusion.reg={reg} leaves a neuron without mass: raise fusion.reg or "
            "fusion.reg_marginal"
        )
    return plan
