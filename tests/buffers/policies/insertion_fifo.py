"""First in, first out: the newest records stay."""

from cl.buffers.insertion import InsertionPolicy
from cl.seeding import Uniforms


class Fifo(InsertionPolicy, name="fifo"):
    """Of n records offered the last `capacity` are stored."""

    def __init__(self, capacity: int, num_classes: int, uniforms: Uniforms):
        super().__init__(capacity, num_classes, uniforms)
        self.offered = 0

    def offer(self, labels: list[int]) -> dict[int, int]:
        placed = {}
        for row in range(len(labels)):
            slot = self.offered % self.capacity
            if self.offered < self.capacity:
                self.stored.append(slot)
            self.offered += 1
            placed[slot] = row
        return placed

    def state(self) -> dict:
        return super().state() | {"offered": self.offered}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.offered = state["offered"]
