"""The options of a study (conf/study/), checked before anything runs."""

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cl.configuration.arguments import options
from cl.values import Count, InnerFraction, Natural, Positive, Text, convert_each, did_you_mean

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
BOUNDS = ("finetune", "joint", "joint_converged", "scratch")


@dataclass(frozen=True)
class Budget:
    """What a row may use: `samples` that it stores (None: not limited by themselves) or `bytes` that persist in all."""

    name: str
    samples: int | None
    bytes: int | None

    @property
    def kind(self) -> str:
        return "samples" if self.bytes is None else "bytes"


@dataclass(frozen=True)
class Search:
    """The search of the learning rate: `factors` of the recipe's, on a fraction `validation` of the training data."""

    factors: list[Positive]
    validation: InnerFraction
    seeds: list[Natural]


@dataclass(frozen=True)
class Options:
    """What conf/study/equal_budget.yaml says, converted; see there."""

    name: Text
    budgets: list[Budget]
    passes: Positive
    memory_share: InnerFraction
    strategies: list[Text]
    fusions: list[Text]
    inits: list[Literal["shared", "independent", "previous"]]
    orders: list[Literal["end", "running"]]
    finetune: list[bool]
    both: list[Text]
    ema: InnerFraction | None
    bounds: list[Text]
    multiples: list[Positive]
    controls: bool
    words: dict
    search: Search | None
    seeds: list[Natural] | None
    jobs: Count | Literal["auto"]
    threads: Count | Literal["auto"]

    @classmethod
    def read(cls, node: dict, folder: str | None = None) -> "Options":
        """Raises ValueError for an unknown, missing or wrong option; `folder` holds the user's own ones of groups."""

        def known(group: str) -> list[str]:
            own = [] if folder is None else [path.stem for path in Path(folder, group).glob("*.yaml")]
            return sorted({*options(group), *own})

        kinds = typing.get_type_hints(cls, include_extras=True)
        found = convert_each("study", node, kinds | {"budgets": list, "search": dict | None, "words": dict | None})
        found["budgets"] = [parse_budget(item) for item in found["budgets"]]
        names = [budget.name for budget in found["budgets"]]
        if len(set(names)) < len(names):
            raise ValueError(f"study.budgets has one budget twice: {', '.join(names)}")
        if not names:
            raise ValueError("study.budgets is empty: give numbers of samples or bytes with a unit, [200,500kB]")
        search = found["search"]
        if search is not None:
            kinds = typing.get_type_hints(Search, include_extras=True)
            found["search"] = search = Search(**convert_each("study.search", search, kinds))
            for name in ("factors", "seeds"):
                if not getattr(search, name):
                    raise ValueError(f"study.search.{name} is empty: give one or more, or study.search=null")
        words = (found["words"] or {}).items()
        found["words"] = {name: [str(word) for word in _as_list(given)] for name, given in words}
        read = cls(**found)
        for key in ("strategies", "fusions", "inits", "orders", "finetune", "both", "bounds"):
            values = getattr(read, key)
            if len(set(values)) < len(values):
                raise ValueError(f"study.{key} has one value twice: {', '.join(map(str, values))}")
        for key, group in (("strategies", "strategy"), ("both", "strategy"), ("fusions", "fusion")):
            for name in getattr(read, key):
                _check_known(f"study.{key}", name, known(group))
        for name in read.bounds:
            _check_known("study.bounds", name, BOUNDS)
        for name in read.words:
            _check_known("study.words", name, [*known("strategy"), *known("fusion")])
        if "joint_converged" in read.bounds and not read.multiples:
            raise ValueError("study.bounds=joint_converged needs study.multiples, got none")
        return read


def parse_budget(value) -> Budget:
    """A number of samples, or of bytes with a unit."""
    text = str(value).replace(" ", "")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?B)?", text)
    if match:
        number, unit = float(match.group(1)), match.group(2)
        if unit is None and number >= 1 and number.is_integer():
            return Budget(f"{int(number):,} sample{'s' * (number > 1)}", int(number), None)
        if unit is not None and number > 0:
            return Budget(f"{number:g} {unit}", None, round(number * UNITS[unit]))
    raise ValueError(
        f"study.budgets must be numbers of samples such as 200, or bytes with a unit such as 500kB, got {value!r}"
    )


def _check_known(key: str, name: str, known) -> None:
    if name not in known:
        raise ValueError(f"{key}={name} does not exist{did_you_mean(name, known)}; valid: {', '.join(known)}")


def _as_list(value) -> list:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
