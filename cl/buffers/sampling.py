"""Sampling policies: which of the stored records are replayed.

stored: the slots that hold a record; labels: the label in every slot. Both return min(n, stored) different slots.
"""

from collections import Counter

from cl.seeding import Uniforms


def uniform(stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
    """Every set of slots equally likely (Floyd's algorithm, Bentley & Floyd 1987)."""
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


def class_balanced(stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
    """Each time a class uniformly, then a record of it uniformly; a class that is used up is left out from there on."""
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


def class_balanced_weights(stored: list[int], labels: list[int], drawn: list[int]) -> list[float]:
    """For each slot drawn, its probability under `uniform` over that under `class_balanced`, for a draw of one."""
    counts = Counter(labels[slot] for slot in stored)
    return [len(counts) * counts[labels[slot]] / len(stored) for slot in drawn]
