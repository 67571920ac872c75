"""Uniform over all records stored."""

from cl.buffers.sampling import SamplingPolicy
from cl.seeding import Uniforms


class Uniform(SamplingPolicy, name="uniform"):
    """Every set of slots equally likely (Floyd's algorithm, Bentley & Floyd 1987)."""

    def draw(self, stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
        n = min(n, len(stored))
        chosen: set[int] = set()
        drawn = []
        for last, number in enumerate(uniforms.take(n), start=len(stored) - n):
            position = int(number * (last + 1))
            if position in chosen:
                position = last
            chosen.add(position)
            drawn.append(stored[position])
        return drawn
