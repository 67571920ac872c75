"""Policies by name: what insertion and sampling policies have in common.

A policy is a class that names itself in its declaration, in a file insertion_NAME.py or sampling_NAME.py of this
folder; `cl.buffers.settings` imports them all. A user's own, in any module, needs no name: it goes by its dotted one.
"""

import inspect
from abc import ABC
from typing import ClassVar


class Policy(ABC):
    """The base of a kind of policies; a direct subclass is a kind, and `class Fifo(Kind, name="fifo")` one of it."""

    name: ClassVar[str]
    known: ClassVar[dict[str, type["Policy"]]]  # of one kind, by name
    # Numbers that the policy needs, as arguments of its constructor: an annotation as in `cl.values.convert` by name.
    options: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls, name: str | None = None, **others):
        super().__init_subclass__(**others)
        if Policy in cls.__bases__:
            cls.known = {}  # those of users are added under their dotted names, once they are asked for
        elif name is not None:
            if name in cls.known:
                raise TypeError(f"two policies have the name {name}: {cls.known[name].__module__} and {cls.__module__}")
            cls.name = name
            cls.known[name] = cls
        elif not inspect.isabstract(cls) and cls.__module__.startswith("cl.buffers."):
            raise TypeError(f"{cls.__name__} has no name: declare it as class {cls.__name__}(..., name='...')")
