"""Joint training: the upper bound. The data of all tasks at once, shuffled, in a single stage."""

from cl.strategies.base import Strategy


class Joint(Strategy):
    """One stage with all tasks; the accuracy matrix has one row."""

    mixable = True

    def curriculum(self, num_tasks: int, concatenate: bool) -> list[list[int]]:
        return [list(range(num_tasks))]
