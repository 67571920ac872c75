"""DARE (Yu et al. 2024, Language Models are Super Mario): drop entries of task vectors at random, rescale the rest."""

import torch

from cl import seeding
from merging.fusion import Models, VectorFusion
from merging.task_arithmetic import combine
from merging.ties import elect_and_merge, trim

THEN = ("task_arithmetic", "ties")


class Dare(VectorFusion):
    """Each entry of tau_i is dropped with probability `drop`, the others are divided by 1 - `drop`; then `then` merges.

    `keep` (%) and `scale` are those of the method that follows.
    """

    def __init__(
        self, drop: float = 0.5, then: str = "task_arithmetic", keep: float = 100.0, scale: float | None = None,
        seed: int = 0,
    ):  # fmt: skip
        if not 0 <= drop < 1:
            raise ValueError(f"fusion.drop must be a probability below 1, got {drop}")
        if then not in THEN:
            raise ValueError(f"fusion.then={then} does not exist; valid: {', '.join(THEN)}")
        self.drop, self.then, self.keep, self.scale, self.seed = drop, then, keep, scale, seed

    def merge(self, models: Models) -> torch.Tensor:
        start, moved = models.task_vectors("dare")
        dropped = [self.thin(vector, number) for number, vector in enumerate(moved)]
        if self.then == "ties":
            merged = elect_and_merge([trim(vector, self.keep) for vector in dropped])
            return start + (1.0 if self.scale is None else self.scale) * merged
        return start + combine(dropped, models, self.scale)

    def thin(self, vector: torch.Tensor, number: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seeding.derive(self.seed, "dare", number))
        stays = torch.rand(len(vector), generator=random).to(vector.device) >= self.drop
        return torch.where(stays, vector / (1 - self.drop), 0.0)
