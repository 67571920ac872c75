"""A fusion of one's own: the median of each weight over the networks.

python merge.py --config-dir docs/examples/conf fusion=median trust=[my_fusion]
"""

import torch

from cl.values import Fraction
from merging.fusion import EntryFusion, Models


class Median(EntryFusion):
    """(1 - pull) median of the networks' weights + pull times the common init."""

    uses_weights = False  # of the networks: weighting=samples is refused

    def __init__(self, pull: Fraction = 0.0):
        self.pull, self.needs_initial = pull, pull > 0

    def rule(self, models: Models):
        if self.needs_initial:
            models.need_initial("median")

        def merge(start: torch.Tensor | None, parts: list[torch.Tensor]) -> torch.Tensor:
            middle = torch.quantile(torch.stack(parts), 0.5, dim=0)
            return middle if self.pull == 0 else middle.lerp(start, self.pull)

        return merge
