"""Training from scratch at every task: the upper bound per task. All data so far, from the initial weights."""

import copy

from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext


class Scratch(Strategy):
    """Before each task the weights and the optimizer are set back to what they were at the beginning."""

    mixable = starts_anew = True

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.initial = copy.deepcopy((self.model.state_dict(), self.updater.state_dict()))

    def curriculum(self, num_tasks: int, concatenate: bool) -> list[list[int]]:
        return super().curriculum(num_tasks, concatenate=True)

    def start_task(self, stage: int) -> None:
        weights, updater = copy.deepcopy(self.initial)
        self.model.load_state_dict(weights)
        self.updater.load_state_dict(updater)
