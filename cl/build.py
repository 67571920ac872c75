"""Construct a component from its node of the configuration, strictly.

`hydra.utils.instantiate` would do, but wraps a wrong option in a page of text; here it is a line with the valid names.
"""

import importlib
import inspect
from collections.abc import Collection, Mapping
from inspect import Parameter
from typing import Literal

from cl.values import BelowOne, NotNegative, Positive, convert, did_you_mean

# Keys of a node that are not arguments of its constructor: the name shown in tables, whether a strategy replays, and
# its version, which is raised when a default or the code changes the numbers.
LABELS = ("name", "memory", "version", "_target_")
# Options of which the annotation tells less: torch's, and what all members of a group have in common.
KINDS = {
    "optimizer": {
        "lr": NotNegative, "momentum": NotNegative, "dampening": float, "weight_decay": NotNegative, "eps": Positive,
        "alpha": BelowOne, "betas": tuple[BelowOne, BelowOne],
    },
    "dataset": {
        "mean": list[float] | None, "std": list[Positive] | None, "validation": BelowOne,
        "augment": list[Literal["crop", "flip", "resized_crop", "rand_augment"]],
    },
    "buffer": {"timeout": Positive},
}  # fmt: skip
# Arguments that the program gives, so that the user cannot.
GIVEN = {
    "backbone": ("sample_shape", "num_outputs"),
    "buffer": ("fields", "num_classes", "seed", "device", "comm"),
    "optimizer": ("params",),
    "loader": ("device", "local_ranks"),
}


def locate(node: dict, group: str):
    """The class or function that the node's `_target_` names."""
    target = node.get("_target_")
    if not target:
        raise ValueError(f"{group} has no _target_: expected the dotted name of a class or function")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the code of a module can raise anything
        raise ValueError(
            f"{group}._target_={target} cannot be imported ({type(error).__name__}: {error}): expected MODULE.NAME "
            "of a module in the current folder or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ValueError(f"{group}._target_={target} is no class or function")
    return found


def build(node: dict, group: str, **given):
    """Call the node's `_target_` with its options, converted by their annotations, and the arguments `given`.

    Raises ValueError, with the valid names, for an option that the target does not take, for one that is missing, and
    for a value that its annotation does not take.
    """
    assert group not in GIVEN or tuple(given) == GIVEN[group], (group, tuple(given))
    target = locate(node, group)
    options = checked_options(node, group, _parameters(target), given)
    try:
        return target(**options, **given)
    except ValueError as error:
        if not target.__module__.startswith("torch"):  # its messages do not name our options
            raise
        given = " ".join(f"{group}.{key}={value}" for key, value in options.items())
        raise ValueError(f"{given}: {error}") from error


def options_of(node: dict, group: str) -> dict:
    """The options of a node, checked and converted as `build` does it."""
    return checked_options(node, group, _parameters(locate(node, group)), GIVEN.get(group, ()))


def _parameters(target) -> Mapping[str, Parameter]:
    """What a target takes; some know more than their signature tells."""
    return target.parameters() if hasattr(target, "parameters") else inspect.signature(target).parameters


def checked_options(node: dict, group: str, parameters: Mapping[str, Parameter], given: Collection[str] = ()) -> dict:
    """The options of a node, converted by the annotations of the target's parameters; `given`: the other arguments.

    Raises ValueError, with the valid names, for an option that the target does not take, for one that is missing, and
    for a value that its annotation does not take.
    """
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    valid = [name for name, p in parameters.items() if name not in given and p.kind is not Parameter.VAR_KEYWORD]
    options = {key: value for key, value in node.items() if key not in LABELS}
    for key in options:
        if key not in valid and not takes_any:
            raise ValueError(
                f"unknown option {group}.{key}{did_you_mean(key, valid)}; valid: {', '.join(valid) or 'none'}"
            )
    kinds = {key: parameters[key].annotation for key in options if key in parameters}
    kinds |= {key: kind for key, kind in KINDS.get(group, {}).items() if key in kinds}
    options |= {key: convert(f"{group}.{key}", options[key], kind) for key, kind in kinds.items()}
    missing = [name for name in valid if parameters[name].default is Parameter.empty and name not in options]
    if missing:
        raise ValueError(f"{group} needs {', '.join(missing)}")
    return options
