"""Names, types and ranges of the keys outside the groups: the schema of conf/run.yaml and conf/merge.yaml.

Keys are converted before anything else looks at them, so that every spelling of a value is the same run. This file
needs no torch: a mistake, and the folder of a finished run, are answered at once.
"""

import typing
from typing import Annotated, Literal, TypedDict

from cl.values import (
    Count,
    Epochs,
    InnerFraction,
    Natural,
    NotNegative,
    Pattern,
    Positive,
    Range,
    Text,
    convert,
    convert_each,
    did_you_mean,
)

Device = Annotated[str, Pattern(r"auto|cpu|mps|cuda(:[0-9]+)?", "auto, cpu, cuda, cuda:N or mps")]


class Mixing(TypedDict):
    """`mixing` of images: alpha of Beta(alpha, alpha), 0: off."""

    mixup: NotNegative
    cutmix: NotNegative


class Reduce(TypedDict):
    """`reduce`: how ranks exchange gradients."""

    operation: Literal["average", "adasum"]
    fp16: bool
    predivide: Positive


class Checkpoint(TypedDict):
    """`checkpoint`: how often the state within a task is saved, and the ranks that a run to be resumed began with."""

    every: Count | Annotated[str, Pattern(r"[0-9]+(\.[0-9]+)?(s|min|h)", "a time such as 30s, 10min or 2h")] | None
    ranks: Count | None


class Launcher(TypedDict):
    """`launcher`: what starts the ranks."""

    name: Literal["none", "horovod", "torchrun"]
    np: Count
    hosts: Text | None
    hostfile: Text | None
    retries: Natural


class Protocol(TypedDict):
    """`protocol` of merge.py: what other keys refer to, which check it themselves."""

    name: Text
    optimizer_state: str
    curve_schedule: dict | None
    curve_init: str
    curve_from: str
    ot_cost: str
    ot_anchor: str


class Run(TypedDict):
    """The keys of conf/run.yaml outside the groups that hold components."""

    seed: Natural
    seeds: Count
    epochs: Epochs | list[Epochs]
    steps: Count | None
    batch_size: Count
    gradient_accumulation_steps: Count
    eval_batch_size: Count
    eval_every: Count | InnerFraction | None
    one_pass: bool
    optimizer_state: Literal["keep", "reset", "epoch"]
    model_state: Literal["keep", "reset"]
    device: Device
    threads: Count | Literal["auto"]
    jobs: Count | Literal["auto"]
    precision: Literal["fp32", "bf16", "fp16"]
    mixing: Mixing
    clip_norm: Positive | None
    ema: InnerFraction | None
    channels_last: bool
    compile: bool
    lr_scaling: Literal["none", "linear", "sqrt"]
    batch_norm: Literal["rank0", "average"]
    reduce: Reduce
    log_interval: Count
    checkpoint: Checkpoint
    timeout: Positive
    output: Text
    overwrite: bool
    pictures: list[Literal["png", "pdf", "svg"]]
    picture_titles: bool
    progress: bool
    debug: bool
    metrics: dict
    callbacks: dict
    trust: list[Text]
    launcher: Launcher


class Merge(Run):
    """Those of conf/merge.yaml."""

    checkpoints: list[Text] | None
    run: Text | None
    initial: Text | None
    weighting: Literal["uniform", "samples"]
    sequential: bool
    running: bool
    batch_norm_samples: Annotated[int, Range(least=2)]
    finetune_samples: Natural
    finetune_epochs: Epochs
    baselines: list[Text]
    protocol: Protocol


# Groups whose nodes are built by cl.build, which checks their options.
RUN_GROUPS = (
    "buffer", "strategy", "scenario", "dataset", "backbone", "optimizer", "schedule", "average", "loader", "logger",
)  # fmt: skip
MERGE_GROUPS = (*RUN_GROUPS, "fusion")
# What `ema=DECAY` is short for.
EMA = {"name": "ema", "_target_": "cl.step.average.Ema"}
# Keys under which a user adds components, each under a name: +metrics.NAME._target_=MODULE.FUNCTION.
ADDED = {"metrics": "my_metrics.worst_task", "callbacks": "my_callbacks.Timer"}
# Options of wandb as they were called while there was one logger at a time, and their keys now.
LOGGER_KEYS = {f"logger.{key}": f"logger.wandb.{key}" for key in ("project", "entity", "mode", "tags")}
# Keys of conf/merge.yaml that conf/run.yaml does not have.
MERGE_KEYS = (*(key for key in Merge.__annotations__ if key not in Run.__annotations__), "fusion")


def checked(config: dict) -> dict:
    """A resolved configuration with every key of the schema converted.

    Keys that begin with an underscore are the user's own, for experiment files that use a value in several places; they
    and the table `published` are left out. Raises ValueError for an unknown key, a missing one and a wrong value.
    """
    merging = all(key in config for key in MERGE_KEYS)
    kinds = typing.get_type_hints(Merge if merging else Run, include_extras=True)
    groups = MERGE_GROUPS if merging else RUN_GROUPS
    config = {key: value for key, value in config.items() if not str(key).startswith("_")}
    if isinstance(config.get("published"), dict):
        del config["published"]
    for key in config:
        if key not in kinds and key not in groups:
            where = "; it belongs to merge.py" if key in MERGE_KEYS else ""
            valid = sorted([*kinds, *groups])
            raise ValueError(f"unknown option {key}{did_you_mean(key, valid)}{where}; valid: {', '.join(valid)}")
    missing = [key for key in (*kinds, *groups) if key not in config]
    if missing:
        raise ValueError(f"{missing[0]} is missing: give it, for example {missing[0]}=..., and take out nothing")
    for key in groups:
        if not isinstance(config[key], dict):
            raise ValueError(f"{key} must be the name of a file in conf/{key}/, got {config[key]!r}")
        if key == "logger":  # which holds several nodes, each under its name
            continue
        if config[key].get("name") is None:
            raise ValueError(f"{key} has no name: its file in conf/{key}/ needs a line name: NAME")
        convert(f"{key}.name", config[key]["name"], Text)
    _check_loggers(config["logger"])
    if not isinstance(config["strategy"].get("memory"), bool):
        raise ValueError(
            f"strategy={config['strategy']['name']} does not say whether it stores samples: its file needs a line "
            f"memory: true or memory: false, got {config['strategy'].get('memory')!r}"
        )
    config |= {key: _converted(key, config[key], kind) for key, kind in kinds.items()}
    config |= _average(config["average"], config["ema"])
    for key, example in ADDED.items():
        _check_added(key, config[key], example)
    launcher = config["launcher"]
    alone = {"name": "none", "np": 1, "hosts": None, "hostfile": None, "retries": 0}
    if launcher["name"] == "none" and launcher != alone:
        given = " ".join(f"launcher.{key}={value}" for key, value in launcher.items() if value != alone[key])
        raise ValueError(f"launcher=none starts no ranks, got {given}: choose launcher=horovod or launcher=torchrun")
    return config


def _average(node: dict, ema: float | None) -> dict:
    """`average` and `ema` where one of them is given: ema=0.9 and average=ema average.decay=0.9 are one run."""
    if node.get("_target_") == EMA["_target_"]:
        decay = convert("average.decay", node.get("decay"), InnerFraction)
        if ema not in (None, decay):
            raise ValueError(f"ema={ema} and average=ema average.decay={decay} are two decays: give one of them")
        return {"average": node | {"decay": decay}, "ema": decay}
    if ema is not None and node["name"] != "none":
        raise ValueError(f"ema={ema} is short for average=ema, and average={node['name']} is another: give one of them")
    return {"average": node if ema is None else EMA | {"decay": ema}, "ema": ema}


def _check_loggers(nodes: dict) -> None:
    for name, node in nodes.items():
        if f"logger.{name}" in LOGGER_KEYS:
            raise ValueError(f"logger.{name} is now {LOGGER_KEYS[f'logger.{name}']}")
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise ValueError(
                f"logger.{name} must be a logger with its _target_, got {node!r}: the file conf/logger/NAME.yaml "
                "begins with the line `# @package logger.NAME`"
            )


def _check_added(key: str, nodes: dict, example: str) -> None:
    for name, node in nodes.items():
        if not str(name).isidentifier():
            raise ValueError(f"{key}.{name}: a name has letters, digits and underscores, and begins with no digit")
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise ValueError(
                f"{key}.{name} must say what it is, for example +{key}.{name}._target_={example}, got {node!r}"
            )


def _converted(name: str, value, kind):
    if not typing.is_typeddict(kind):
        return convert(name, value, kind)
    kinds = typing.get_type_hints(kind, include_extras=True)
    if not isinstance(value, dict):
        example = f"{name}.{next(iter(kinds))}=..."
        raise ValueError(f"{name} has several values ({', '.join(kinds)}): set {example}, got {name}={value}")
    return convert_each(name, value, kinds)
