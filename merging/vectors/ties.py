"""TIES (Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models): trim, elect sign, merge."""

from typing import Literal

import torch

from cl.values import Count, Percentage
from merging.fusion import EntryFusion, Models, flatten, unscaled
from merging.vectors.scaled import Scaled


class Ties(Scaled, EntryFusion):
    """theta_0 + scale times the mean, entry by entry, of the trimmed task vectors that have the elected sign.

    Trimming keeps the `keep` % largest entries of each task vector over the whole network (section 4), and all entries
    equal to the smallest kept one. The sign with the larger sum of magnitudes is elected. With running=true each step
    merges two: the merge so far (before `scale`) and the next model.
    """

    uses_weights, needs_initial = False, True

    def __init__(self, keep: Percentage = 20.0, scale: float | Literal["search"] = 1.0, samples_per_task: Count = 100):
        self.keep, self.scale, self.samples_per_task = keep, scale, samples_per_task

    def rule(self, models: Models):
        start = flatten(models.need_initial("ties"), models.parameters)
        least = [smallest_kept(flatten(state, models.parameters).sub_(start), self.keep) for state in models.states]
        factors = unscaled(models, self.scale)

        def merge(start: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
            moved = [trim(part - start, limit) * factor for part, limit, factor in zip(parts, least, factors)]
            return start + self.scale * elect_and_merge(moved)

        return merge


def smallest_kept(vector: torch.Tensor, keep: float) -> float:
    """The smallest magnitude among the `keep` % largest entries of a vector; overwrites the vector."""
    count = max(1, round(keep / 100 * len(vector)))
    if count == len(vector):
        return 0.0
    magnitudes = vector.abs_()
    if magnitudes.is_cpu:  # numpy's selection is several times as fast as torch's
        place = len(vector) - count
        magnitudes.numpy().partition(place)
        return magnitudes[place].item()
    return magnitudes.topk(count, sorted=False).values.min().item()


def trim(moved: torch.Tensor, least: float) -> torch.Tensor:
    """The tensor with all entries below the magnitude `least` set to 0."""
    return torch.where(moved.abs() >= least, moved, 0.0)


def elect_and_merge(moved: list[torch.Tensor]) -> torch.Tensor:
    """The mean, entry by entry, over the vectors whose sign is that of the sum; 0 where the sum is 0."""
    elected = torch.sign(sum(moved))
    total, count = torch.zeros_like(moved[0]), torch.zeros_like(moved[0])
    for vector in moved:
        agrees = vector * elected > 0
        total += torch.where(agrees, vector, 0.0)
        count += agrees
    return total / count.clamp_(min=1)
