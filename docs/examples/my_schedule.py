"""A learning rate schedule of one's own: the rate falls with the root of the time.

python run.py --config-dir docs/examples/conf schedule=inverse_root trust=[my_schedule]
"""

from cl.step.schedules import Schedule
from cl.values import NotNegative, Positive


class InverseRoot(Schedule):
    """1 / sqrt(1 + decay t), where t goes from 0 to 1 in each task."""

    def __init__(self, decay: Positive, warmup: NotNegative = 0.0):
        super().__init__(warmup)
        self.decay = decay

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        return (1 + self.decay * progress) ** -0.5
