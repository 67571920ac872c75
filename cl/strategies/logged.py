"""Numbers that a strategy logs while it trains: their means over an interval."""

import torch


class Logged:
    """Sums of numbers by name since the last `take`; those of tensors stay on the device, so no step waits for them.

    Each rank has its sums, as each rank has its batches.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: torch.Tensor | float) -> None:
        """Count a number, a tensor of one element or a float."""
        value = value.detach() if isinstance(value, torch.Tensor) else value
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The mean of each number since the last call."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict:
        """The sums as numbers."""
        return {"sums": {name: float(total) for name, total in self.sums.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
