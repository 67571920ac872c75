"""Admission laws: which of the offered records stay, and in which slot.

Reservoir and class-balanced memories give every offered record a uniform random key and keep the records with the
highest keys. Each set of k among the n offered is then equally likely to be the kept one, which is the law of reservoir
sampling (Vitter 1985), and it needs no count of what was offered: memories can be shrunk, merged and resumed as they are.
"""

from abc import ABC, abstractmethod

import numpy as np

from cl import seeding


class Admission(ABC):
    """Decides on offered labels; `occupied` [capacity] bool says which slots hold a record."""

    def __init__(self, capacity: int, stream: np.random.Generator):
        self.capacity, self.stream = capacity, stream
        self.occupied = np.zeros(capacity, dtype=bool)

    @abstractmethod
    def offer(self, labels: np.ndarray) -> dict[int, int]:
        """Which row of the batch goes into which slot: {slot: row}; slots may also become free."""

    def state(self) -> dict:
        """Everything as plain numbers; `restore` takes it back."""
        return {"stream": seeding.state_of(self.stream), "occupied": self.occupied.tolist()}

    def restore(self, state: dict) -> None:
        seeding.restore(self.stream, state["stream"])
        self.occupied = np.array(state["occupied"], dtype=bool)


class Reservoir(Admission):
    """After n offers each is stored with probability min(1, capacity / n)."""

    def __init__(self, capacity: int, stream: np.random.Generator):
        super().__init__(capacity, stream)
        self.keys = np.full(capacity, -1.0)  # below every key: an empty slot goes first
        self.lowest = -1.0

    def offer(self, labels: np.ndarray) -> dict[int, int]:
        keys = self.stream.random(len(labels))
        placed: dict[int, int] = {}
        for row in np.flatnonzero(keys > self.lowest).tolist():
            if keys[row] <= self.lowest:  # an earlier row of this batch has raised it
                continue
            slot = int(self.keys.argmin())
            self.keys[slot] = keys[row]
            self.occupied[slot] = True
            self.lowest = self.keys.min()
            placed[slot] = row
        return placed

    def state(self) -> dict:
        return super().state() | {"keys": self.keys.tolist()}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.keys = np.array(state["keys"])
        self.lowest = self.keys.min()


class ClassBalanced(Admission):
    """Each class seen has an equal share of the capacity (to one record), and is a reservoir of its own.

    With C classes seen, the i-th to appear (from 0) has ceil((capacity - i) / C) slots; this only falls as C grows.
    """

    def __init__(self, capacity: int, stream: np.random.Generator):
        super().__init__(capacity, stream)
        self.keys = np.zeros(capacity)
        self.slots: dict[int, list[int]] = {}  # label -> its slots; classes in order of appearance
        self.free = list(range(capacity))

    def offer(self, labels: np.ndarray) -> dict[int, int]:
        placed: dict[int, int] = {}
        for row, (label, key) in enumerate(zip(labels.tolist(), self.stream.random(len(labels)).tolist())):
            if label not in self.slots:
                self.slots[label] = []
                self._shrink(placed)
            slots = self.slots[label]
            if len(slots) < self.quota(label):
                slot = self.free.pop()
                slots.append(slot)
                self.occupied[slot] = True
            else:
                slot = min(slots, key=self.keys.__getitem__, default=None)
                if slot is None or key <= self.keys[slot]:
                    continue
            self.keys[slot] = key
            placed[slot] = row
        return placed

    def quota(self, label: int) -> int:
        """Slots of a class that was seen."""
        return -((list(self.slots).index(label) - self.capacity) // len(self.slots)) if self.slots else 0

    def _shrink(self, placed: dict[int, int]) -> None:
        for label, slots in self.slots.items():
            slots.sort(key=self.keys.__getitem__)
            for slot in slots[: max(0, len(slots) - self.quota(label))]:
                self.free.append(slot)
                self.occupied[slot] = False
                placed.pop(slot, None)
            del slots[: max(0, len(slots) - self.quota(label))]

    def state(self) -> dict:
        slots = [[label, slots] for label, slots in self.slots.items()]
        return super().state() | {"keys": self.keys.tolist(), "slots": slots, "free": self.free}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.keys = np.array(state["keys"])
        self.slots, self.free = {label: list(slots) for label, slots in state["slots"]}, list(state["free"])


class Candidates(Admission):
    """The law of Bouvier et al. (CCGrid 2024): a fixed share of the slots per class, filled in order; then each record
    of a batch of b replaces a uniformly chosen one of its class with probability candidates / b.
    """

    def __init__(self, capacity: int, stream: np.random.Generator, num_classes: int, candidates: int):
        super().__init__(capacity, stream)
        self.quota, self.candidates = capacity // num_classes, candidates
        if self.quota == 0:
            raise ValueError(
                f"buffer.admission=candidates keeps equally many records of each class: "
                f"a capacity of {capacity} is less than one for each of {num_classes} classes"
            )
        self.filled = np.zeros(num_classes, dtype=np.int64)

    def offer(self, labels: np.ndarray) -> dict[int, int]:
        placed: dict[int, int] = {}
        chances = self.stream.random(len(labels)) < self.candidates / max(1, len(labels))
        choices = self.stream.integers(self.quota, size=len(labels))
        for row, label in enumerate(labels.tolist()):
            if self.filled[label] < self.quota:
                slot = label * self.quota + int(self.filled[label])
                self.filled[label] += 1
                self.occupied[slot] = True
            elif chances[row]:
                slot = label * self.quota + int(choices[row])
            else:
                continue
            placed[slot] = row
        return placed

    def state(self) -> dict:
        return super().state() | {"filled": self.filled.tolist()}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.filled = np.array(state["filled"], dtype=np.int64)
