"""Reservoir sampling (Vitter 1985) by random keys."""

from heapq import heappush, heapreplace

from cl.buffers.insertion import InsertionPolicy
from cl.seeding import Uniforms


class Reservoir(InsertionPolicy, name="reservoir"):
    """After n offers each is stored with probability min(1, capacity / n)."""

    def __init__(self, capacity: int, num_classes: int, uniforms: Uniforms):
        super().__init__(capacity, num_classes, uniforms)
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
