"""DARE (Yu et al. 2024, Language Models are Super Mario): drop entries of task vectors at random, rescale the rest."""

from typing import Literal

import torch

from cl import seeding
from cl.values import BelowOne, Count, Percentage
from merging.fusion import EntryFusion, Models, flatten, unscaled
from merging.vectors.scaled import Scaled
from merging.vectors.task_arithmetic import combine, scales_of
from merging.vectors.ties import elect_and_merge, smallest_kept, trim


class Dare(Scaled, EntryFusion):
    """Each entry of tau_i is dropped with probability `drop`, the others are divided by 1 - `drop`; `then` merges them.

    `keep` (%) and `scale` are options of the method `then`. With running=true the entries of each model are dropped
    once, when it is merged, and the merge so far keeps all its entries.
    """

    needs_initial = True

    def __init__(
        self,
        drop: BelowOne = 0.5,
        then: Literal["task_arithmetic", "ties"] = "task_arithmetic",
        keep: Percentage = 100.0,
        scale: float | Literal["search"] | None = None,
        seed: int = 0,
        samples_per_task: Count = 100,
    ):
        self.samples_per_task = samples_per_task
        self.drop, self.then, self.keep, self.scale, self.seed = drop, then, keep, scale, seed
        self.uses_weights = then == "task_arithmetic" and scale is None

    def rule(self, models: Models):
        start = flatten(models.need_initial("dare"), models.parameters)
        first = max(0, models.merged - 1)  # so that the last state gets its number in the whole sequence of models
        stays = [self.draw(len(start), first + number) for number in range(len(models.states))]
        if models.merged:
            stays[0] = None
        scales, limits = scales_of(models, self.scale), [0.0] * len(stays)
        scale = 1.0 if self.scale is None else self.scale
        factors = unscaled(models, scale)
        if self.then == "ties" and self.keep < 100:
            for i, state in enumerate(models.states):
                moved = flatten(state, models.parameters).sub_(start)
                limits[i] = smallest_kept(self.thin(moved, stays[i]), self.keep)
        done = 0

        def merge(start: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
            nonlocal done
            place = slice(done, done + start.numel())
            done = place.stop
            dropped = [
                self.thin(part - start, None if mask is None else mask[place].view_as(part))
                for part, mask in zip(parts, stays)
            ]
            if self.then == "ties":
                trimmed = [trim(vector, limit) * factor for vector, limit, factor in zip(dropped, limits, factors)]
                return start + scale * elect_and_merge(trimmed)
            return start + combine(dropped, scales)

        return merge

    def draw(self, count: int, number: int) -> torch.Tensor:
        """[count] bool: which entries of a model's task vector are kept."""
        random = torch.Generator().manual_seed(seeding.derive(self.seed, "dare", number))
        return torch.rand(count, generator=random) >= self.drop

    def thin(self, moved: torch.Tensor, stays: torch.Tensor | None) -> torch.Tensor:
        """Drop the entries that `stays` does not keep and rescale the others; None: change nothing."""
        if stays is None:
            return moved
        return torch.where(stays.to(moved.device), moved / (1 - self.drop), 0.0)
