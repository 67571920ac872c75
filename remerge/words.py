"""From the arguments of a Python call to the words of a command line, and to a configuration."""

import itertools
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from cl.configuration import arguments
from cl.configuration.composing import composed
from cl.configuration.trust import check_given
from cl.run.mistakes import one_line


def words_of(overrides: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """`("strategy=er",), {"seed": 0}` as `["strategy=er", "seed=0"]`; raises ValueError for what is no such word."""
    for word in overrides:
        if not isinstance(word, str) or word.startswith("-"):
            raise ValueError(
                f'{word!r} is no setting: give words such as "strategy=er" or keywords such as seed=0, without flags'
            )
    return [*overrides, *(f"{key}={as_word(key, value)}" for key, value in values.items())]


def as_word(key: str, value: object) -> str:
    """A Python value as Hydra reads it: `None` as null, `True` as true, lists and dictionaries in brackets."""
    if value is None:
        return "null"
    if hasattr(value, "tolist"):  # of numpy and torch
        value = value.tolist()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Real):
        return repr(value)
    if isinstance(value, str | Path):
        text = str(value)
        return text if _is_plain(text) else _quoted(text)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{as_word(key, item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(as_word(key, item) for item in value) + "]"
    raise ValueError(f"{key}: expected a number, text, True, False, None, or a list or dictionary, got {value!r}")


def _is_plain(text: str) -> bool:
    """Whether text means itself on a command line; what is not is put in quotes."""
    return bool(text) and all(letter.isalnum() or letter in "_./-+%" for letter in text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\") if text.endswith("\\") else text
    return "'" + escaped.replace("'", "\\'") + "'"


def configuration(command: str, words: Sequence[str], folder: str | Path | None = None):
    """The configuration (OmegaConf) of `run` or `merge` for these words; `folder`: as --config-dir names it.

    Raises ValueError in one line, with what is valid.
    """
    try:
        arguments.check_overrides(list(words), command)
        config = composed(command, words, folder)
        check_given(config, list(words))
    except Exception as error:  # Hydra's errors are of many types and pages long
        raise ValueError(one_line(error, command, list(words), None if folder is None else str(folder))) from None
    return config


def jobs_of(overrides: Sequence[str], values: Mapping[str, object]) -> list[list[str]]:
    """The words of each job of a sweep: the product of all values that are given for each key, the last one fastest.

    `values` of a key: a list, a range or another sequence is swept over; text may have commas as on a command line.
    """
    many = {key: value for key, value in values.items() if isinstance(value, Sequence | range) and _is_several(value)}
    words = words_of(overrides, {key: value for key, value in values.items() if key not in many})
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except Exception as error:
        raise ValueError(one_line(error, "run", words)) from None
    choices = []
    for word, override in zip(words, parsed):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([word])
    choices += [[f"{key}={as_word(key, value)}" for value in several] for key, several in many.items()]
    empty = [key for key, several in many.items() if not several]
    if empty:
        raise ValueError(f"{empty[0]} has no value to sweep over")
    return [list(job) for job in itertools.product(*choices)]


def _is_several(value: object) -> bool:
    return not isinstance(value, str)
