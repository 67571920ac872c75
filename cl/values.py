"""Converts values of the configuration to the type annotation of their option.

Hydra reads `no` as text, YAML reads `"1e-3"` as text, and Python accepts True as 1 and text as a list of letters.
Therefore each value is converted by the annotation of its option, or rejected with a one-line error.
"""

import difflib
import math
import re
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
UNFIT = object()  # returned for a value that does not fit an annotation


@dataclass(frozen=True)
class Range:
    """The bounds of a number, for Annotated: `least` and `most` are inclusive, `above` and `below` exclusive."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def takes(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def describe(self, noun: str) -> str:
        words = (("of at least", self.least), ("above", self.above), ("of at most", self.most), ("below", self.below))
        return f"{noun} " + " and ".join(f"{word} {bound}" for word, bound in words if bound is not None)


@dataclass(frozen=True)
class Pattern:
    """A regular expression that text must match, and its description in words, for Annotated."""

    pattern: str
    words: str

    def takes(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value, re.DOTALL) is not None

    def describe(self, noun: str) -> str:
        return self.words


Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Epochs = Annotated[float, Range(above=0, most=1_000_000)]  # passes over data, also parts of one
NotNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
BelowOne = Annotated[float, Range(least=0, below=1)]
InnerFraction = Annotated[float, Range(above=0, below=1)]
Percentage = Annotated[float, Range(above=0, most=100)]
Text = Annotated[str, Pattern(r".*\S.*", "text that is not empty")]


def convert_each(name: str, values: dict, annotations: dict) -> dict:
    """The values of an option that has several, each converted to its annotation.

    Raises ValueError for one that is unknown, missing or of a wrong kind.
    """
    for key in values:
        if key not in annotations:
            hint, valid = did_you_mean(key, annotations), ", ".join(annotations)
            raise ValueError(f"unknown option {name}.{key}{hint}; valid: {valid}")
    missing = [key for key in annotations if key not in values]
    if missing:
        raise ValueError(f"{name}.{missing[0]} is missing: give {name}.{missing[0]}=...")
    return {key: convert(f"{name}.{key}", value, annotations[key]) for key, value in values.items()}


def convert(name: str, value, annotation):
    """Convert a value to the type of an annotation.

    Annotations: int, float, bool, str, list, dict, None, Literal, list[...], tuple[...], unions of them, and Annotated
    with a Range or a Pattern. Other types in a union are ignored; if there are only other types, the value is returned
    unchanged. A number may be text ("1e-3"), a truth value yes, no, on or off, and a list with one item may come
    without brackets. Raises ValueError, which names the option, the value and the valid values.
    """
    converted = _fit(value, annotation)
    if converted is UNFIT and not isinstance(value, (list, dict, types.NoneType)):
        converted = _fit([value], annotation)
    if converted is UNFIT:
        shown = {None: "null", True: "true", False: "false"}.get(value) if not isinstance(value, (list, dict)) else None
        shown = shown if value is None or isinstance(value, bool) else repr(value)
        raise ValueError(f"{name} must be {describe(annotation)}, got {shown}{_hint(name, value, annotation)}")
    return converted


def did_you_mean(name, valid) -> str:
    """A hint with the nearest of the valid names, in brackets; "" if none is close."""
    words = {str(word).lower(): str(word) for word in valid}
    close = difflib.get_close_matches(str(name).lower(), words, n=1)
    return f" (did you mean {words[close[0]]}?)" if close else ""


def is_plain(value, leaves: Collection[type]) -> bool:
    """Whether a value is of these types, or lists, tuples and dictionaries of them: what a checkpoint can hold."""
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and is_plain(item, leaves) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item, leaves) for item in value)
    return type(value) in leaves


def one_of(words) -> str:
    """The words joined by commas and an `or`."""
    *first, last = map(str, words)
    return f"{', '.join(first)} or {last}" if first else last


def _parts(annotation) -> list[tuple]:
    """For each supported alternative of an annotation: its type, its arguments, and its Range or Pattern, or None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for inner in typing.get_args(annotation) for part in _parts(inner)]
    limit = None
    if typing.get_origin(annotation) is Annotated:
        annotation, limit = typing.get_args(annotation)[:2]
    kind = typing.get_origin(annotation) or (types.NoneType if annotation is None else annotation)
    return [(kind, typing.get_args(annotation), limit)] if kind in KINDS else []


def _fit(value, annotation):
    """The value converted to the first alternative that it fits, or UNFIT."""
    parts = _parts(annotation)
    for kind, arguments, limit in parts:
        _, take = KINDS[kind]
        fitted = take(value, arguments)
        if fitted is not UNFIT and (limit is None or limit.takes(fitted)):
            return fitted
    return UNFIT if parts else value


def _int(value, _):
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value)
    return value if type(value) is int else UNFIT


def _float(value, _):
    try:
        number = float(value) if type(value) in (int, float, str) else math.nan
    except (ValueError, OverflowError):
        return UNFIT
    return number if math.isfinite(number) else UNFIT


def _bool(value, _):
    return WORDS.get(str(value).lower(), UNFIT) if isinstance(value, (bool, str)) else UNFIT


def _list(value, arguments):
    if not isinstance(value, list):
        return UNFIT
    fitted = [_fit(item, arguments[0]) for item in value] if arguments else value
    return UNFIT if UNFIT in fitted else fitted


def _tuple(value, arguments):
    if not isinstance(value, list) or len(value) != len(arguments):
        return UNFIT
    fitted = [_fit(item, kind) for item, kind in zip(value, arguments)]
    return UNFIT if UNFIT in fitted else fitted


def _literal(value, arguments):
    return value if isinstance(value, str) and value in arguments else UNFIT


def _exactly(kind):
    return lambda value, _: value if type(value) is kind else UNFIT


KINDS = {
    int: ("a whole number", _int),
    float: ("a number", _float),
    bool: ("true or false", _bool),
    str: ("text", _exactly(str)),
    types.NoneType: ("null", _exactly(types.NoneType)),
    dict: ("a mapping", _exactly(dict)),
    list: ("a list", _list),
    tuple: ("a list", _tuple),
    typing.Literal: ("", _literal),
}


def describe(annotation) -> str:
    """The values that an annotation takes, in words; "" where it says nothing that is checked."""
    words = []
    for kind, arguments, limit in _parts(annotation):
        if kind is typing.Literal:
            words += arguments
        elif kind is list and arguments and describe(arguments[0]):
            words.append(f"a list (each {describe(arguments[0])})")
        elif kind is tuple:
            words.append(f"a list of {len(arguments)} ({'; '.join(map(describe, arguments))})")
        else:
            words.append(limit.describe(KINDS[kind][0]) if limit else KINDS[kind][0])
    return one_of(words) if words else ""


def _hint(name: str, value, annotation) -> str:
    parts = _parts(annotation)
    if isinstance(value, str):
        return did_you_mean(value, [word for kind, words, _ in parts if kind is typing.Literal for word in words])
    if type(value) in (int, float, bool) and any(kind is str for kind, *_ in parts):
        return f": to give it as text, add quotes, '{name}=\"{value}\"'"
    return ""
