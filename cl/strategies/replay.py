"""What the methods with draws from a memory share: the size of a draw, checked."""

from cl.strategies.base import Strategy


class ReplayStrategy(Strategy):
    """A strategy with `num_draws` independent draws of `replay_batch_size` records per step."""

    uses_memory = True
    num_draws = 1

    def __init__(self, replay_batch_size: int):
        if replay_batch_size < 1:
            raise ValueError(f"strategy.replay_batch_size must be at least 1, got {replay_batch_size}")
        self.draw_sizes = (replay_batch_size,) * self.num_draws


def check_weights(**weights: float) -> None:
    """Raise ValueError for a negative weight of a loss term."""
    for name, value in weights.items():
        if value < 0:
            raise ValueError(f"strategy.{name} must be 0 or more, got {value}")
