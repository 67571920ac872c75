"""Strict construction of a component from its node of the configuration.

`hydra.utils.instantiate` was rejected because it wraps a wrong option in a page of text. Here the error is one line
with the valid names.
"""

import importlib
import inspect
import traceback
from collections.abc import Collection, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Literal

from cl.values import BelowOne, Count, NotNegative, Positive, Text, convert, did_you_mean

# Keys of a node that are not constructor arguments: the name shown in tables, whether a strategy has a replay memory,
# and the version, which is raised when a default or the code changes the numbers.
LABELS = ("name", "memory", "version", "_target_")
# Types of options without a precise annotation: those of torch, and those common to all members of a group.
KINDS = {
    "optimizer": {
        "lr": NotNegative, "momentum": NotNegative, "dampening": float, "weight_decay": NotNegative, "eps": Positive,
        "alpha": BelowOne, "betas": tuple[BelowOne, BelowOne],
    },
    "dataset": {
        "mean": list[float] | None, "std": list[Positive] | None, "validation": BelowOne,
        "augment": list[Literal["crop", "flip", "resized_crop", "rand_augment"]],
    },
}  # fmt: skip
# Constructor arguments that the program supplies and the user cannot set.
GIVEN = {
    "backbone": ("sample_shape", "num_outputs"),
    "buffer": ("fields", "num_classes", "seed", "device", "comm", "timeout"),
    "optimizer": ("params",),
    "loader": ("device", "local_ranks"),
}

# Options that every member of a group has, and that are no arguments of its own: their type and their neutral value.
SHARED = {
    "backbone": {
        "input_size": (Count | None, None), "freeze": (bool | Text | None, None),
        "cache": (bool | Literal["float16"], True),
        "lora": (dict | None, None),
    },
}  # fmt: skip

# What is made of the members of a group; by name, because most of these import torch.
MADE = {
    "buffer": "cl.buffers.base.ReplayBuffer", "strategy": "cl.strategies.base.Strategy",
    "scenario": "cl.scenarios.base.Scenario", "dataset": "cl.datasets.base.Dataset",
    "backbone": "torch.nn.modules.module.Module", "optimizer": "torch.optim.optimizer.Optimizer",
    "schedule": "cl.step.schedules.Schedule", "average": "cl.step.average.Average",
    "fusion": "merging.fusion.Fusion",
}  # fmt: skip
SHORT = {
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
}


def locate(node: dict, group: str):
    """The class or function named by the node's `_target_`; raises ValueError if it cannot be imported."""
    target = node.get("_target_")
    if not target:
        raise ValueError(f"{group} has no _target_: expected the dotted name of a class or function")
    found = imported(target, f"{group}._target_={target}")
    if not callable(found):
        raise ValueError(f"{group}._target_={target} is not a class or function")
    return found


def imported(target: str, what: str):
    """What a dotted name stands for; `what` names it in errors. Raises ValueError if it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a module's code may raise anything
        raise ValueError(
            f"{what} cannot be imported ({type(error).__name__}: {error}): {_remedy(error, module)}"
        ) from error


def _remedy(error: Exception, module: str) -> str:
    """What to do about a module that cannot be imported, or lacks a name."""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return (
            "expected MODULE.NAME of a module in the current folder, beside the folder of --config-dir, or on "
            "PYTHONPATH"
        )
    if module == "__main__":
        return "what a script or notebook defines is not there in other processes, put it into a module"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".py")]
    if isinstance(error, AttributeError) and Path(frames[-1].filename) == Path(__file__):
        return "the module is there, and has no such name"
    return f"the module is there, the error is of {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def build(node: dict, group: str, **given):
    """Call the node's `_target_` with its options, converted by their annotations, and the arguments `given`.

    Raises ValueError, which lists what is valid, for unknown options, missing ones and values that do not fit.
    """
    assert group not in GIVEN or tuple(given) == GIVEN[group], (group, tuple(given))
    target = locate(node, group)
    options = checked_options(node, group, _parameters(target), given)
    if inspect.isabstract(target):
        lacks = ", ".join(sorted(target.__abstractmethods__))
        raise ValueError(f"{group}._target_={node['_target_']} lacks {lacks}, which every {group} must have")
    try:
        made = target(**options, **given)
    except ValueError as error:
        if not target.__module__.startswith("torch"):  # messages of torch do not name our options
            raise
        given = " ".join(f"{group}.{key}={value}" for key, value in options.items())
        raise ValueError(f"{given}: {error}") from error
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(made).__mro__]
    expected = MADE.get(group, kinds[0])
    if expected not in kinds:
        raise ValueError(
            f"{group}._target_={node['_target_']} makes an object of {type(made).__name__}, "
            f"expected {SHORT.get(expected, expected)}"
        )
    return made


def options_of(node: dict, group: str) -> dict:
    """The options of a node, checked and converted as in `build`."""
    return checked_options(node, group, _parameters(locate(node, group)), GIVEN.get(group, ()))


def shared_options(node: dict, group: str) -> dict:
    """The options that every member of a group has, those that the node does not name with their neutral values.

    So has one whose target takes an option of that name itself. Raises ValueError for values that do not fit.
    """
    own = _parameters(locate(node, group))
    return {
        key: neutral if key in own or key not in node else convert(f"{group}.{key}", node[key], kind)
        for key, (kind, neutral) in SHARED[group].items()
    }


def _parameters(target) -> Mapping[str, Parameter]:
    """The parameters of a target; a target may declare more than its signature by a method `parameters`."""
    return target.parameters() if hasattr(target, "parameters") else inspect.signature(target).parameters


def checked_options(node: dict, group: str, parameters: Mapping[str, Parameter], given: Collection[str] = ()) -> dict:
    """The options of a node, converted by the annotations of the target's parameters.

    `given`: names of the arguments that the program supplies. Raises ValueError, which lists what is valid, for unknown
    options, missing ones and values that do not fit.
    """
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    valid = [name for name, p in parameters.items() if name not in given and p.kind is not Parameter.VAR_KEYWORD]
    shared = [name for name in SHARED.get(group, ()) if name not in parameters]
    options = {key: value for key, value in node.items() if key not in LABELS and key not in shared}
    lacks = [name for name in GIVEN.get(group, ()) if name not in parameters and not takes_any]
    if lacks:
        raise ValueError(
            f"{group}._target_={node.get('_target_')} does not take {', '.join(lacks)}: remerge calls every {group} "
            f"with {', '.join(GIVEN[group])} beside its options"
        )
    for key in options:
        if key not in valid and not takes_any:
            known = valid + shared
            raise ValueError(
                f"unknown option {group}.{key}{did_you_mean(key, known)}; valid: {', '.join(known) or 'none'}"
            )
    for key in shared:
        if key in node:
            convert(f"{group}.{key}", node[key], SHARED[group][key][0])
    kinds = {key: parameters[key].annotation for key in options if key in parameters}
    kinds |= {key: kind for key, kind in KINDS.get(group, {}).items() if key in kinds}
    options |= {key: convert(f"{group}.{key}", options[key], kind) for key, kind in kinds.items()}
    missing = [name for name in valid if parameters[name].default is Parameter.empty and name not in options]
    if missing:
        raise ValueError(f"{group} needs {', '.join(missing)}")
    return options
