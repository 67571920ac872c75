"""Between uniform and class-balanced: a class with probability proportional to a power of its number of records."""

from cl.buffers.sampling import SamplingPolicy
from cl.seeding import Uniforms
from cl.values import NotNegative


class Tempered(SamplingPolicy, name="tempered"):
    """Each time a class with probability proportional to (its records left) ** power, then one of them uniformly."""

    options = {"power": NotNegative}  # 0: class-balanced, 1: uniform

    def __init__(self, power: float):
        self.power = power

    def draw(self, stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
        left: dict[int, list[int]] = {}
        for slot in stored:
            left.setdefault(labels[slot], []).append(slot)
        n = min(n, len(stored))
        numbers = iter(uniforms.take(2 * n))
        drawn = []
        while len(drawn) < n:
            masses = {label: len(slots) ** self.power for label, slots in left.items() if slots}
            label, place = _pick(masses, next(numbers)), next(numbers)
            drawn.append(left[label].pop(int(place * len(left[label]))))
        return drawn

    def weights(self, stored: list[int], labels: list[int], drawn: list[int]) -> list[float]:
        counts: dict[int, int] = {}
        for slot in stored:
            counts[labels[slot]] = counts.get(labels[slot], 0) + 1
        total = sum(count**self.power for count in counts.values())
        return [counts[labels[slot]] ** (1 - self.power) * total / len(stored) for slot in drawn]


def _pick(masses: dict[int, float], number: float) -> int:
    """The label in whose part of the line from 0 to 1 the number lies."""
    left = number * sum(masses.values())
    for label, mass in masses.items():
        left -= mass
        if left < 0:
            return label
    return label  # rounding
