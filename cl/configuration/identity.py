"""What names a run: the groups that were chosen, and the values that differ from the neutral ones, in the user's words.

Neutral is what the files in conf/ say: of a member of a group its own file, of every other key conf/run.yaml or
conf/merge.yaml. So a run keeps its name when a module moves, and when an option is added whose neutral value is what
happened before. Where a default or an algorithm changes the numbers, the `version` in the member's file is raised (or
VERSIONS here, for what belongs to no group); from 2 on it is part of the name. A hash of the whole resolved
configuration was rejected: it holds module paths and every default.

This file needs no torch: a finished run is found at once.
"""

import functools
import hashlib
import json
import math
from pathlib import PurePath

from omegaconf import OmegaConf

from cl.build import LABELS
from cl.configuration.place import CONF
from cl.configuration.settings import MERGE_GROUPS, MERGE_KEYS
from cl.distributed.ranks import world_size
from cl.values import WHOLE_NUMBER, WORDS

SCHEMA = 1  # of the words: raised when the same run gets other words
VERSIONS = {"training": 1, "merging": 1}  # of what no member of a group decides: raised when it changes the numbers
# What does not change a run's numbers does not change its name either.
NOT_IDENTITY = {
    "seed", "seeds", "output", "overwrite", "pictures", "picture_titles", "progress", "debug", "logger", "log_interval",
    "launcher", "loader", "metrics", "baselines", "protocol", "fusion.seed", "buffer.timeout",
    "checkpoint", "timeout", "trust", "jobs", "one_pass",
}  # fmt: skip
# Where the files of our data sets lie and how they are read. A data set of the user may be defined by them.
PLACES = {"dataset.root", "dataset.download", "dataset.stream", "dataset.cache"}
ROOT_IS_DATA = ("image_folder", "ptycho")  # data sets that are defined by the files in their folder


def words(config: dict, ranks: int | None = None) -> dict:
    """The words that name a run without its seed, by key: `{"strategy": "er", "buffer.capacity": 500, ...}`.

    `config`: resolved and checked. `ranks`: with how many it was run; None: with those of `checkpoint.ranks`, or else
    those that are there or that its launcher will start. A run that another number began has words of its own. Values
    are canonical, so that `1`, `1.0` and `"1"` are one run.
    """
    found: dict = {"schema": SCHEMA}
    what = ["training", "merging"] if "fusion" in config else ["training"]
    found |= {f"{name}.version": VERSIONS[name] for name in what if VERSIONS[name] > 1}
    for key, value in config.items():
        if key in NOT_IDENTITY or key == "buffer" and not config["strategy"]["memory"]:
            continue
        if key == "average" and value["name"] in ("none", "ema"):  # the key `ema` says it, as before there were others
            continue
        if key == "callbacks":
            found |= _added(key, value)
        elif key in MERGE_GROUPS:
            found |= _component(key, value, key)
        else:
            value = _of_all_seeds(value, config["seed"]) if key == "run" else value
            found |= _differences(key, value, _neutral_keys().get(key))
    if config["dataset"]["name"] in ROOT_IS_DATA:
        found["dataset.root"] = config["dataset"]["root"]
    # Workers decode alike however many there are; other loaders give other pixels.
    if config["loader"]["name"] != "workers":
        found["loader"] = config["loader"]["name"]
    begun = config.get("checkpoint", {}).get("ranks")
    if ranks is not None and begun not in (None, ranks):
        found["checkpoint.ranks"] = begun
    ranks = (begun or world_size(config)) if ranks is None else ranks
    return found | ({"ranks": ranks} if ranks != 1 else {})


def _of_all_seeds(folder: str | None, seed: int) -> str | None:
    """The folder of a run without the part that names its seed, which is that of the merge."""
    path = PurePath(str(folder))
    return str(path.parent) if folder is not None and path.name == f"seed{seed}" else folder


def as_text(found: dict) -> list[str]:
    """The words as `key=value`, sorted, for results.json and for reading."""
    return sorted(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in found.items())


def config_hash(config: dict, ranks: int | None = None) -> str:
    """Eight hex digits that name a configuration without its seed."""
    text = json.dumps(words(config, ranks), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def canonical(value):
    """One form for all spellings of a value that mean the same to `cl.values.convert`."""
    if isinstance(value, list | tuple):
        value = [canonical(item) for item in value]
        return value[0] if len(value) == 1 and not isinstance(value[0], list | dict) else value
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in WORDS:
            return WORDS[text.lower()]
        if WHOLE_NUMBER.fullmatch(text):
            return int(text)
        try:
            value = float(text)
        except ValueError:
            return text
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else value
    return value


def _added(key: str, nodes: dict) -> dict:
    """Components that a user has added, each under a name: there is nothing neutral, so all of their words count."""
    words_of = ((f"{key}.{name}.{option}", value) for name, node in nodes.items() for option, value in node.items())
    return {word: canonical(value) for word, value in words_of}


def _component(group: str, node: dict, prefix: str) -> dict:
    """The member's name, its version from 2 on, and the options that differ from those in its file."""
    neutral = _neutral_member(group, node)
    found = {prefix: node.get("name")}
    if node.get("version", 1) > 1:
        found[f"{prefix}.version"] = node["version"]
    if neutral and neutral.get("_target_") != node.get("_target_"):  # a user's own class under one of our names
        found[f"{prefix}._target_"] = node.get("_target_")
    left_out = NOT_IDENTITY | (PLACES if _is_ours(group, node) else set())
    for key, value in node.items():
        if key not in LABELS and f"{group}.{key}" not in left_out:
            found |= _differences(f"{prefix}.{key}", value, neutral.get(key))
    return found


def is_set(group: str, node: dict, key: str) -> bool:
    """Whether an option of a group's member is another than in its file, which is what a run's name would say."""
    return bool(_differences(key, node.get(key), _neutral_member(group, node).get(key)))


def _differences(key: str, value, neutral) -> dict:
    """The words of one value, none where it is neutral."""
    if isinstance(value, dict) and "_target_" in value:  # a component within another, such as a curve's own schedule
        return _component(key.rpartition(".")[2], value, key)
    if isinstance(value, dict) and value:
        neutral = neutral if isinstance(neutral, dict) else {}
        found = {}
        for name, item in value.items():
            found |= _differences(f"{key}.{name}", item, neutral.get(name))
        return found | {f"~{key}.{name}": None for name in neutral if name not in value}
    value, neutral = (canonical(None if each == {} else each) for each in (value, neutral))
    return {} if json.dumps(value) == json.dumps(neutral) else {key: value}


def _is_ours(group: str, node: dict) -> bool:
    """Whether a member is that of our file of its name."""
    ours = _file(group, str(node.get("name")))
    return ours is not None and ours.get("_target_") == node.get("_target_")


def _neutral_member(group: str, node: dict) -> dict:
    """The file that a member was made from: the one of its name, else one with the same class; {} if there is none."""
    found = _file(group, str(node.get("name")))
    if found is None:
        # Of several files with one class, one whose name is made of its options, such as class${.num_tasks}.
        same = [file for file in _names(group) if _raw(group, file).get("_target_") == node.get("_target_")]
        same.sort(key=lambda file: ("${" not in str(_raw(group, file).get("name")), file))
        found = _file(group, same[0]) if same else {}
    return found


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@functools.cache
def _raw(group: str, name: str) -> dict:
    content = OmegaConf.load(CONF / group / f"{name}.yaml")
    return OmegaConf.to_container(content.get(group, content))


@functools.cache
def _file(group: str, name: str) -> dict | None:
    """The options of one file, references to the protocol resolved by the fair one; None if there is no such file."""
    if not (CONF / group / f"{name}.yaml").is_file():
        return None
    raw = {key: value for key, value in _raw(group, name).items() if key != "name"}
    fair = _raw("protocol", "fair")
    resolved = OmegaConf.to_container(OmegaConf.create({"protocol": fair, "seed": 0, "node": raw}), resolve=True)
    return resolved["node"]


@functools.cache
def _neutral_keys() -> dict:
    """The keys outside the groups as conf/run.yaml and conf/merge.yaml have them."""
    run, merge = (OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")) for name in ("run", "merge"))
    return {key: value for key, value in run.items() if key not in ("defaults", "hydra")} | {
        key: merge[key] for key in MERGE_KEYS if key in merge
    }
