"""From the arguments of a Python call to the words of a command line, and to a configuration."""

import itertools
import numbers
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from cl.configuration import arguments, place
from cl.configuration.composing import composed
from cl.configuration.trust import check_given
from cl.run.mistakes import one_line

LISTS = (*arguments.SEVERAL, "checkpoints")  # options that are lists, whatever their default


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
        return str(value) if _is_itself(str(value)) else _quoted(str(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{as_word(key, item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(as_word(key, item) for item in value) + "]"
    raise ValueError(f"{key}: expected a number, text, True, False, None, or a list or dictionary, got {value!r}")


def _is_itself(text: str) -> bool:
    """Whether Hydra reads text as just this text, and not as a number, a list, several values or a mistake."""
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return False
    return not override.is_sweep_override() and override.value() == text


def _quoted(text: str) -> str:
    """In quotes; of backslashes only those before a quote have a meaning."""
    inner = re.sub(r"(\\*)'", r"\1\1\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inner) + "'"


def configuration(command: str, words: Sequence[str], folder: str | Path | None = None):
    """The configuration (OmegaConf) of `run` or `merge` for these words; `folder`: as --config-dir names it.

    Raises ValueError in one line, with what is valid.
    """
    place.forget()  # folders of earlier calls
    try:
        arguments.check_overrides(list(words), command)
        if several := next((word for word in words if len(_choices(word)) > 1), None):
            raise ValueError(f"{several} has several values: remerge.sweep does a job for each of them")
        config = composed(command, words, folder)
        check_given(config, list(words))
    except Exception as error:  # Hydra's errors are of many types and pages long
        raise ValueError(one_line(error, command, list(words), None if folder is None else str(folder))) from None
    return config


def jobs_of(
    overrides: Sequence[str], values: Mapping[str, object], command: str = "run", folder: str | Path | None = None
) -> list[list[str]]:
    """The words of each job of a sweep: the product of all values that are given for each key, the last one fastest.

    `values`: a list, a range or another sequence is swept over, but for an option that is a list itself it is one
    value. Text is read as on a command line, with commas between several values and lists in brackets.
    """
    several = {key: value for key, value in values.items() if _is_list(value)}
    texts = [f"{key}={value}" for key, value in values.items() if isinstance(value, str)]
    words = words_of(overrides, {key: value for key, value in values.items() if not isinstance(value, str | Sequence)})
    choices = [_choices(word) for word in [*words, *texts]]
    if several:
        first = configuration(command, [each[0] for each in choices], folder)
        for key, value in several.items():
            listed = key in LISTS or isinstance(OmegaConf.select(first, key), ListConfig)
            is_list = listed and not any(map(_is_list, value))
            choices.append([f"{key}={as_word(key, each)}" for each in ([value] if is_list else value)])
            if not choices[-1]:
                raise ValueError(f"{key} has no value to sweep over")
    return [list(job) for job in itertools.product(*choices)]


def _choices(word: str) -> list[str]:
    """One word for each value of a word that may have several."""
    try:
        override = OverridesParser.create().parse_override(word)
    except Exception as error:
        raise ValueError(one_line(error, "run", [word])) from None
    if not override.is_sweep_override():
        return [word]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
