"""Insertion policies: which of the offered records stay, and in which slot.

Reservoir and class-balanced memories give every offered record a uniform random key and keep the records with the
highest keys. Each set of k among the n offered is then equally likely to be the kept one, which is the law of
reservoir sampling (Vitter 1985), and it needs no count of what was offered: memories can be shrunk, merged and resumed
as they are.

Plain lists and heaps throughout: a training step offers a handful of records, for which calls of numpy cost more.
"""

from abc import ABC, abstractmethod
from heapq import heappop, heappush, heapreplace

from cl.seeding import Uniforms


class InsertionPolicy(ABC):
    """Decides on offered labels; `stored` lists the slots that hold a record, in no particular order."""

    def __init__(self, capacity: int, uniforms: Uniforms):
        self.capacity, self.uniforms = capacity, uniforms
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


class Reservoir(InsertionPolicy):
    """After n offers each is stored with probability min(1, capacity / n)."""

    def __init__(self, capacity: int, uniforms: Uniforms):
        super().__init__(capacity, uniforms)
        self.heap: list[tuple[float, int]] = []  # (key, slot), the lowest key on top

    def offer(self, labels: list[int]) -> dict[int, int]:
        placed: dict[int, int] = {}
        for row, key in enumerate(self.uniforms.take(len(labels))):
            if len(self.heap) < self.capacity:
                slot = len(self.heap)
                heappush(self.heap, (key, slot))
                self.stored.append(slot)
            elif key > self.heap[0][0]:
                slot = self.heap[0][1]
                heapreplace(self.heap, (key, slot))
            else:
                continue
            placed[slot] = row
        return placed

    def state(self) -> dict:
        return super().state() | {"heap": list(self.heap)}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.heap = [(key, slot) for key, slot in state["heap"]]


class ClassBalanced(InsertionPolicy):
    """Every record is stored while there is room; from then on the largest class gives way to smaller ones.

    Of n_c offered records of class c, min(n_c, L) are stored, with the level L that fills the capacity (classes at the
    level differ by one record at most, where it is not whole). L only falls, so each class is a reservoir of its own.
    That is the greedy sampler of GDumb (Prabhu et al. 2020, algorithm 1), but that the paper takes the first records of
    a class, and leaves room unused where a class offers less than its part.
    """

    def __init__(self, capacity: int, uniforms: Uniforms):
        super().__init__(capacity, uniforms)
        self.heaps: dict[int, list[tuple[float, int]]] = {}  # label -> (key, slot); classes in order of appearance
        self.largest: list[tuple[float, int]] | None = None  # of `heaps`; None: to be found anew

    def offer(self, labels: list[int]) -> dict[int, int]:
        placed: dict[int, int] = {}
        for row, (label, key) in enumerate(zip(labels, self.uniforms.take(len(labels)))):
            heap = self.heaps.setdefault(label, [])
            if len(self.stored) < self.capacity:
                slot = len(self.stored)
                self.stored.append(slot)
                heappush(heap, (key, slot))
            elif len(self._largest()) >= len(heap) + 2:  # else the class grows at the cost of one that is not larger
                slot = heappop(self._largest())[1]
                heappush(heap, (key, slot))
                self.largest = None
            elif heap and key > heap[0][0]:
                slot = heap[0][1]
                heapreplace(heap, (key, slot))
            else:
                continue
            placed[slot] = row
        return placed

    def _largest(self) -> list[tuple[float, int]]:
        """The class that gives way: of several that are the largest, the last to appear."""
        if self.largest is None:
            self.largest = max(reversed(self.heaps.values()), key=len)
        return self.largest

    def state(self) -> dict:
        return super().state() | {"heaps": [[label, list(heap)] for label, heap in self.heaps.items()]}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.heaps = {label: [(key, slot) for key, slot in heap] for label, heap in state["heaps"]}
        self.largest = None


class Candidates(InsertionPolicy):
    """The law of Bouvier et al. (CCGrid 2024): a fixed share of the slots per class, filled in order; then each record
    of a batch of b replaces a uniformly chosen one of its class with probability candidates / b.
    """

    def __init__(self, capacity: int, uniforms: Uniforms, num_classes: int, candidates: int):
        super().__init__(capacity, uniforms)
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
