"""Policies by name: what the packages `insertion` and `sampling` have in common, and the check of what was chosen.

A policy is a class in a file of one of these packages; naming itself in its declaration makes it known. This file needs
no torch, so that a configuration can be checked before torch is imported.
"""

import importlib
import inspect
import pkgutil
from abc import ABC
from types import ModuleType
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
            cls.known = {}
        elif name is not None:
            if name in cls.known:
                raise TypeError(f"two policies have the name {name}: {cls.known[name].__module__} and {cls.__module__}")
            cls.name = name
            cls.known[name] = cls
        elif not inspect.isabstract(cls):
            raise TypeError(f"{cls.__name__} has no name: declare it as class {cls.__name__}(..., name='...')")


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that the policies in them are known."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
