"""Git Re-Basin, weight matching (Ainsworth et al. 2023, Git Re-Basin: Merging Models modulo Permutation Symmetries)."""

from itertools import chain

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from cl import seeding
from cl.values import Count, Natural
from merging.align.alignment import Plan, apply_plans, rows, sweep
from merging.align.repair import check_once, repair
from merging.align.structure import Group, Structure, trace
from merging.fusion import Context, Models, State, WeightFusion, mean_state

GAIN = 1e-9  # smallest relative gain for which a new assignment replaces the current order


class Rebasin(WeightFusion):
    """The mean of the models, with the neurons of each permuted to be nearest to the first model.

    The permutations maximise the inner product of all weights by coordinate descent over the layers, in random order
    (algorithm 1), until none changes; each one is a linear assignment. The start is one pass through the layers that
    matches incoming weights only; the paper starts from the identity. `repair`: see `merging.align.repair`, images for
    it, 0 for none.
    """

    def __init__(self, max_sweeps: Count = 100, seed: int = 0, repair: Natural = 0):
        self.max_sweeps, self.seed, self.repair = max_sweeps, seed, repair

    def check(self, network: nn.Module, sample_shape: tuple[int, ...]) -> None:
        trace(network, sample_shape)
        if self.repair:
            check_once(network, sample_shape)

    def __call__(self, models: Models, context: Context) -> State:
        structure = trace(context.network, context.sample_shape)
        anchor, *others = models.states
        aligned = [self.align(structure, anchor, other, models.parameters) for other in others]
        merged = mean_state(models, [anchor, *aligned])
        if self.repair:
            images = context.images(sorted(set(chain(*models.tasks))), self.repair)
            return repair(context.network, merged, [anchor, *aligned], models.weights, images)
        return merged

    def align(self, structure: Structure, anchor: State, state: State, names: list[str]) -> State:
        """The model with its neurons permuted to be near the anchor (a local optimum of coordinate descent)."""
        state = apply_plans(state, sweep(structure, anchor, state, _match_rows))
        random = seeding.generator(self.seed, "rebasin")
        for _ in range(self.max_sweeps):
            changed = False
            for number in random.permutation(len(structure.groups)):
                group = structure.groups[number]
                plan = _assign(_similarity(anchor, state, group, names))
                if plan.is_identity:
                    continue
                moved = apply_plans(state, {group: plan})
                # If a layer reads and writes the same channels, the assignment may lower the total inner product.
                if _product(anchor, moved, names) > _product(anchor, state, names) + GAIN * _product(
                    anchor, anchor, names
                ):
                    state, changed = moved, True
            if not changed:
                break
        return state


def _match_rows(model: torch.Tensor, anchor: torch.Tensor) -> Plan:
    return _assign(anchor.double() @ model.double().T)


def _assign(similarity: torch.Tensor) -> Plan:
    """The permutation with the largest sum of similarities [anchor's neuron, model's neuron]."""
    return Plan(order=torch.from_numpy(linear_sum_assignment(similarity.cpu().numpy(), maximize=True)[1]))


def _similarity(anchor: State, state: State, group: Group, names: list[str]) -> torch.Tensor:
    """[anchor's channels, model's channels]: inner products of all their incoming and outgoing weights."""
    trained = [axis for axis in group.axes if axis.name in names]
    return sum(rows(anchor[axis.name], axis).double() @ rows(state[axis.name], axis).double().T for axis in trained)


def _product(first: State, second: State, names: list[str]) -> float:
    return sum((first[name].double() * second[name].double()).sum().item() for name in names)
