"""Finished runs, read from their results.json and put together over the seeds of each configuration. Needs no torch."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from cl.checksums import DamagedError
from cl.configuration.identity import canonical, words
from cl.configuration.settings import MERGE_KEYS
from cl.reporting.reading import read_results

# Keys that have no effect with some value of another: shown only where they have one.
NEEDS = {
    "finetune_epochs": ("finetune_samples", lambda value: value > 0),
    "fusion.held_out": ("fusion.at", "best".__eq__),
    "ema": ("average", ("none", "ema").__contains__),
}
NETWORKS = {"run", "checkpoints"}  # options of merge.py that say which networks are merged
ABOUT = ("scenario", "dataset", "backbone", "strategy", "buffer")


@dataclass
class Group:
    """The runs of one configuration over its seeds."""

    runs: list[dict]
    label: dict[str, str]  # heading -> value of the columns that name it
    files: list[Path] = field(default_factory=list)  # in which each run was found first

    def values(self, key: str) -> list[float]:
        return [run[key] for run in self.runs if run.get(key) is not None]


def load(paths: list[Path], networks: Collection[str] = ()) -> list[Group]:
    """The groups of all results at or below the paths, in order of first appearance, those of one strategy together.

    Hidden folders are passed over. A run that lies in several folders counts once. The networks that were merged have
    one group, of their mean, and each of those that `networks` names ("network 1 alone") has one of its own. Raises
    FileNotFoundError where there is no run, ValueError for a file that is no result and for two files of one run with
    different numbers.
    """
    files: list[Path] = []
    for path in paths:
        found = [path] if path.is_file() else sorted(filter(_is_open(path), path.rglob("results.json")), key=_by_number)
        if not found:
            raise FileNotFoundError(f"no results.json at or below {path}: give folders of finished runs")
        files += found
    by_group: dict[str, dict[int, tuple[dict, Path]]] = {}  # of each seed the run, and where it was found first
    for file in files:
        try:
            run = read_results(file)
            for each in (*_models_alone(run, networks), run):
                found, where = by_group.setdefault(each["kind"] + each["group"], {}).setdefault(
                    each["seed"], (each, file)
                )
                if _numbers(found) != _numbers(each):
                    raise TwoResults(
                        f"{where} and {file} are the same run (seed {each['seed']} of the same configuration) with "
                        "different numbers: give the folder of the one that is to be counted"
                    )
        except (DamagedError, TwoResults):
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a result of remerge ({type(error).__name__}: {error})") from error
    groups = [
        Group([run for run, _ in of.values()], _about(next(iter(of.values()))[0]), [file for _, file in of.values()])
        for of in by_group.values()
    ]
    _add_what_differs(groups)
    order: dict[tuple, int] = {}
    return sorted(groups, key=lambda group: order.setdefault(tuple(group.label[key] for key in ABOUT[:4]), len(order)))


class TwoResults(ValueError):
    """The same run twice, with different numbers."""


def _numbers(run: dict) -> tuple:
    """What is equal in two files of one run."""
    return tuple(run.get(key) for key in ("accuracy_matrix", "error_matrix", "average_accuracy", "average_error"))


def _is_open(folder: Path) -> Callable[[Path], bool]:
    """Whether a file is in no hidden folder below this one: a study's short runs are in .study."""
    return lambda file: not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _by_number(path: Path) -> list:
    """Sorts seed2 before seed10."""
    return [[int(word) if word.isdigit() else word for word in re.split(r"(\d+)", part)] for part in path.parts]


def _models_alone(run: dict, named: Collection[str]) -> list[dict]:
    """The networks that were merged, each as if it were a run; fusions of the same ones have the same."""
    values = run.get("model_accuracies", [])
    rows = {f"network {number} alone": value for number, value in enumerate(values, start=1)}
    if not rows.keys() <= set(named):
        mean = {f"a network alone (mean of {len(values)})": sum(values) / len(values)}
        rows = {name: value for name, value in rows.items() if name in named} | mean
    told = {key: run[key] for key in ("scenario", "dataset", "backbone", "seed", "world_size")}
    measured = ", recalibrated" if run.get("batch_norm") == "recalibrated" else ""
    of_merge = set(MERGE_KEYS) - NETWORKS
    told["config"] = {key: value for key, value in run["config"].items() if key not in of_merge}
    return [
        told | {
            "kind": "network", "group": f"{run['models_group']}{name}", "strategy": name + measured,
            "buffer_capacity": None, "accuracy_so_far": None, "average_accuracy": value,
        }
        for name, value in rows.items()
    ]  # fmt: skip


def _about(run: dict) -> dict[str, str]:
    capacity = run["buffer_capacity"]
    about = {key: str(run[key]) for key in ABOUT[:4]} | {"buffer": "-" if capacity is None else str(capacity)}
    return about | {"strategy": run["fusion"]} if run["kind"] == "merge" else about


def _add_what_differs(groups: list[Group]) -> None:
    """Tell groups with the same columns apart by the configuration keys in which they differ."""
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        alike.setdefault(tuple(group.label.values()), []).append(group)
    for same in alike.values():
        if len(same) == 1:
            continue
        settings = [_settings(group.runs[0]) for group in same]
        keys = sorted(set().union(*settings) - {"schema"})
        differ = [key for key in keys if len({json.dumps(setting.get(key)) for setting in settings}) > 1]
        shown = [{key: _value(group.runs[0], key, setting) for key in differ} for group, setting in zip(same, settings)]
        said = [key for key in differ if not _follows(key, shown)]
        full = [_as_words(values, said) for values in shown]
        short = [
            _as_words(values, [key for key in said if _has_effect(key, group.runs[0])])
            for values, group in zip(shown, same)
        ]
        for group, whole, words_of in zip(same, full, short):
            group.label["with"] = words_of if short.count(words_of) == 1 else whole


UNSET = object()


def _as_words(values: dict, keys: list[str]) -> str:
    """`key=value` as a user writes it on a command line."""
    pairs = ((key, values[key]) for key in keys if values[key] is not UNSET)
    return " ".join(f"{key}={value if isinstance(value, str) else _text(value)}" for key, value in pairs)


def _text(value) -> str:
    return json.dumps(value, separators=(",", ":"))


def _follows(key: str, shown: list[dict]) -> bool:
    """Whether an option says nothing beside the component it belongs to: alike wherever it is an option at all."""
    above = [key[:place] for place, letter in enumerate(key) if letter == "."]
    values = {_text(values[key]) for values in shown if values[key] is not UNSET}
    return len(values) <= 1 and any(name in values for name in above for values in shown)


def _has_effect(key: str, run: dict) -> bool:
    """Whether a key has an effect on a run, as far as NEEDS knows."""
    if key not in NEEDS:
        return True
    other, needed = NEEDS[key]
    value = _at(run["config"], other)
    return value is UNSET or needed(value)


def _settings(run: dict) -> dict:
    """The words that name a run's configuration; without what a merge repeats of itself for the training before it."""
    merge = run["kind"] == "merge"
    found = words(run["config"], run["world_size"])
    return {key: value for key, value in found.items() if not (merge and f"{key}.".startswith("strategy.fusion."))}


def _value(run: dict, key: str, setting: dict):
    """A setting of a run, from its configuration where its name leaves it out."""
    if key in setting:
        return setting[key]
    value = _at(run["config"] | {"ranks": run["world_size"]}, key)
    return value if value is UNSET else canonical(value)


def _at(config: dict, key: str):
    """The value of a key with dots, a component by its name; UNSET where there is none."""
    node = config
    for name in key.split("."):
        node = node.get(name, UNSET) if isinstance(node, dict) else UNSET
    return node.get("name", UNSET) if isinstance(node, dict) else node
