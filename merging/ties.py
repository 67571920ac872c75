"""TIES (Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models): trim, elect sign, merge."""

import torch

from merging.fusion import Models, VectorFusion


class Ties(VectorFusion):
    """theta_0 + scale times the mean, entry by entry, of the trimmed task vectors that have the elected sign.

    Of each task vector the `keep` % largest entries stay (over the whole network, section 4). The sign with the larger
    sum of magnitudes is elected.
    """

    def __init__(self, keep: float = 20.0, scale: float = 1.0):
        if not 0 < keep <= 100:
            raise ValueError(f"fusion.keep must be a percentage above 0, up to 100, got {keep}")
        self.keep, self.scale = keep, scale

    def merge(self, models: Models) -> torch.Tensor:
        start, moved = models.task_vectors("ties")
        return start + self.scale * elect_and_merge([trim(vector, self.keep) for vector in moved])


def trim(vector: torch.Tensor, keep: float) -> torch.Tensor:
    """The `keep` % entries of largest magnitude, the others 0."""
    count = max(1, round(keep / 100 * len(vector)))
    if count == len(vector):
        return vector
    trimmed = torch.zeros_like(vector)
    largest = vector.abs().topk(count, sorted=False).indices
    trimmed[largest] = vector[largest]
    return trimmed


def elect_and_merge(moved: list[torch.Tensor]) -> torch.Tensor:
    """The mean, entry by entry, of those whose sign is that of the sum; where all are 0, 0."""
    elected = torch.sign(sum(moved))
    total, count = torch.zeros_like(moved[0]), torch.zeros_like(moved[0])
    for vector in moved:
        agrees = (torch.sign(vector) == elected) & (elected != 0)
        total += torch.where(agrees, vector, 0.0)
        count += agrees
    return total / count.clamp(min=1)
