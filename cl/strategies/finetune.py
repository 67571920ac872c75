"""Fine-tuning: the lower bound ("vanilla", "incremental", "SGD"). Each task on its own data, nothing replayed."""

from cl.strategies.base import Strategy


class Finetune(Strategy):
    """The step of the base class as it is."""

    mixable = stackable = True
