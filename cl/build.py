"""Construct a component from its node of the configuration, strictly.

`hydra.utils.instantiate` would do, but wraps a wrong option in a page of text; here it is a line with the valid names.
"""

import difflib
import importlib
import inspect
import types
import typing

# Keys of a node that are not arguments of its constructor: the name shown in tables, and whether a strategy replays.
LABELS = ("name", "memory", "_target_")
PLAIN_TYPES = (int, float, bool, str, list, dict, types.NoneType)


def locate(node: dict, group: str):
    """The class or function that the node's `_target_` names."""
    target = node.get("_target_")
    if not target:
        raise ValueError(f"{group} has no _target_: expected the dotted name of a class or function")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{group}._target_={target} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{group}._target_={target} is no class or function")
    return found


def build(node: dict, group: str, **given):
    """Call the node's `_target_` with its options and the arguments `given` by the program.

    Raises ValueError, with the valid names, for an option that the target does not take, for one that is missing, and
    for one of another type than its annotation says (plain types only).
    """
    target = locate(node, group)
    options = {key: value for key, value in node.items() if key not in LABELS}
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    valid = [name for name, p in parameters.items() if name not in given and p.kind is not p.VAR_KEYWORD]
    for key in options:
        if key not in valid and not takes_any:
            close = difflib.get_close_matches(key, valid, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"unknown option {group}.{key}{hint}; valid: {', '.join(valid) or 'none'}")
    missing = [name for name in valid if parameters[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ValueError(f"{group} needs {', '.join(missing)}")
    for key, value in options.items():
        _check_type(f"{group}.{key}", value, parameters[key].annotation if key in parameters else None)
    return target(**options, **given)


def _check_type(name: str, value, annotation) -> None:
    allowed = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if not all(kind in PLAIN_TYPES for kind in allowed):
        return
    kinds = {*allowed, int} if float in allowed else set(allowed)  # a whole number will do for a float
    if type(value) not in kinds:
        expected = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
        raise ValueError(f"{name} must be {expected}, got {value!r}")
