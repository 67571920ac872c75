"""One network per task, each trained on its own task alone: what merging starts from."""

import copy
from typing import Literal

from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext


class Independent(Strategy):
    """CE(f(x), y) on each task, from weights that `init` names; the accuracy matrix has a network per row.

    shared: the same random weights for all tasks; independent: others for each; previous: those of the task before,
    with its optimizer's state, which otherwise begins again as well; merged: the networks so far merged by `fusion`,
    which python merge.py sets.
    """

    mixable = needs_boundaries = True

    def __init__(
        self,
        init: Literal["shared", "independent", "previous", "merged"] = "shared",
        fusion: dict | None = None,
    ):
        self.init = init
        self.starts_anew = init != "previous"
        self.keeps_weights = f"strategy.init={init}" if init in ("previous", "merged") else ""
        if init == "merged":
            self.needs_start = "strategy.init=merged starts each network from the merge of those before: use merge.py"

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.fresh_updater = copy.deepcopy(self.updater.state_dict())

    def start_task(self, stage: int) -> None:
        if self.init == "previous":
            return
        if self.init != "merged":
            self.model.load_state_dict(self.initial_weights(stage if self.init == "independent" else 0))
        self.updater.load_state_dict(copy.deepcopy(self.fresh_updater))
