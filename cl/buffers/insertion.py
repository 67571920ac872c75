"""Insertion policies: which of the offered records stay, and in which slot. Each has a file insertion_NAME.py.

Reservoir and class-balanced memories give every offered record a uniform random key and keep the records with the
highest keys. Each set of k among the n offered is then equally likely to be the kept one, which is reservoir sampling
(Vitter 1985), and it needs no count of what was offered: memories can be shrunk, merged and resumed without it.

Plain lists and heaps throughout: a training step offers a handful of records, for which calls of numpy cost more.
"""

from abc import abstractmethod

from cl.buffers.policy import Policy
from cl.seeding import Uniforms


class InsertionPolicy(Policy):
    """Decides on offered labels; `stored` lists the slots that hold a record, in no particular order."""

    def __init__(self, capacity: int, num_classes: int, uniforms: Uniforms):
        self.capacity, self.num_classes, self.uniforms = capacity, num_classes, uniforms
        self.stored: list[int] = []

    @abstractmethod
    def offer(self, labels: list[int]) -> dict[int, int]:
        """Which row of the batch goes into which slot: {slot: row}; slots may also become free."""

    def state(self) -> dict:
        """Everything as plain numbers; `restore` takes it back."""
        return {"uniforms": self.uniforms.state(), "stored": list(self.stored)}

    def restore(self, state: dict) -> None:
        self.uniforms.restore(state["uniforms"])
        self.stored = list(state["stored"])
