"""Uniform over the classes stored, then within the class."""

from collections import Counter

from cl.buffers.sampling import SamplingPolicy
from cl.seeding import Uniforms


class ClassBalanced(SamplingPolicy, name="class_balanced"):
    """Each time a class uniformly, then a record of it uniformly; a class that is used up is left out from there on."""

    def draw(self, stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
        members: dict[int, list[int]] = {}
        for slot in stored:
            members.setdefault(labels[slot], []).append(slot)
        left = list(members.values())
        n = min(n, len(stored))
        numbers = iter(uniforms.take(2 * n))
        drawn = []
        while len(drawn) < n:
            place = int(next(numbers) * len(left))
            slots = left[place]
            drawn.append(slots.pop(int(next(numbers) * len(slots))))
            if not slots:
                del left[place]
        return drawn

    def weights(self, stored: list[int], labels: list[int], drawn: list[int]) -> list[float]:
        counts = Counter(labels[slot] for slot in stored)
        return [len(counts) * counts[labels[slot]] / len(stored) for slot in drawn]
