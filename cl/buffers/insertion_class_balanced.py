"""Equal parts for all classes, once the memory is full (Prabhu et al. 2020)."""

from heapq import heappop, heappush, heapreplace

from cl.buffers.insertion import InsertionPolicy
from cl.seeding import Uniforms


class ClassBalanced(InsertionPolicy, name="class_balanced"):
    """Every record is stored while there is room; from then on the largest class gives way to smaller ones.

    Of n_c offered records of class c, min(n_c, L) are stored, with the level L that fills the capacity (classes at the
    level differ by one record at most, where it is not whole). L only falls, so each class is its own reservoir.
    That is the greedy sampler of GDumb (Prabhu et al. 2020, algorithm 1), but that the paper takes the first records of
    a class, and leaves room unused where a class offers less than its part.
    """

    def __init__(self, capacity: int, num_classes: int, uniforms: Uniforms):
        super().__init__(capacity, num_classes, uniforms)
        self.heaps: dict[int, list[tuple[float, int]]] = {}  # label -> (key, slot); classes in order of appearance
        self.largest: list[tuple[float, int]] | None = None  # of `heaps`; None: to be found again

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
