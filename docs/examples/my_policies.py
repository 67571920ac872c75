"""Policies of one's own for the replay memory: which samples are stored, and which of them are replayed.

python run.py --config-dir docs/examples/conf buffer=fifo trust=[my_policies]
"""

from cl.buffers.insertion import InsertionPolicy
from cl.buffers.sampling import SamplingPolicy
from cl.seeding import Uniforms
from cl.values import Count


class Fifo(InsertionPolicy):
    """Of every so many samples offered one is taken; of those the newest are stored, as many as there is room for."""

    options = {"every": Count}

    def __init__(self, capacity: int, num_classes: int, uniforms: Uniforms, every: int):
        super().__init__(capacity, num_classes, uniforms)
        self.every, self.offered = every, 0

    def offer(self, labels: list[int]) -> dict[int, int]:
        placed = {}
        for row in range(len(labels)):
            number, rest = divmod(self.offered, self.every)
            self.offered += 1
            if rest == 0:
                slot = number % self.capacity
                if number < self.capacity:
                    self.stored.append(slot)
                placed[slot] = row
        return placed

    def state(self) -> dict:
        return super().state() | {"offered": self.offered}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.offered = state["offered"]


class RareFirst(SamplingPolicy):
    """All records of the smallest class, then those of the next, until there are enough; at random within a class."""

    def draw(self, stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
        members: dict[int, list[int]] = {}
        for slot in stored:
            members.setdefault(labels[slot], []).append(slot)
        order = dict(zip(stored, uniforms.take(len(stored))))
        ranked = sorted(stored, key=lambda slot: (len(members[labels[slot]]), labels[slot], order[slot]))
        return ranked[:n]
