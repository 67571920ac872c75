"""A fixed quota per class, of which each batch replaces a part (Bouvier et al. 2024)."""

from cl.buffers.insertion import InsertionPolicy
from cl.seeding import Uniforms
from cl.values import Count


class Candidates(InsertionPolicy, name="candidates"):
    """Bouvier et al. (CCGrid 2024): a fixed share of the slots per class, filled in order; then each record
    of a batch of b replaces a uniformly chosen one of its class with probability candidates / b.
    """

    options = {"candidates": Count}

    def __init__(self, capacity: int, num_classes: int, uniforms: Uniforms, candidates: int):
        super().__init__(capacity, num_classes, uniforms)
        self.quota, self.candidates = capacity // num_classes, candidates
        if self.quota == 0:
            raise ValueError(
                f"buffer.insertion=candidates keeps equally many records of each class: "
                f"a capacity of {capacity} is less than one for each of {num_classes} classes"
            )
        self.filled = [0] * num_classes

    def offer(self, labels: list[int]) -> dict[int, int]:
        placed: dict[int, int] = {}
        numbers = self.uniforms.take(2 * len(labels))
        for row, label in enumerate(labels):
            chance, choice = numbers[2 * row : 2 * row + 2]
            first = label * self.quota
            if self.filled[label] < self.quota:
                slot = first + self.filled[label]
                self.filled[label] += 1
                self.stored.append(slot)
            elif chance * len(labels) < self.candidates:
                slot = first + int(choice * self.quota)
            else:
                continue
            placed[slot] = row
        return placed

    def state(self) -> dict:
        return super().state() | {"filled": list(self.filled)}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.filled = list(state["filled"])
