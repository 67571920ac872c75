"""Construct a component from its node of the configuration, strictly.

`hydra.utils.instantiate` would do, but wraps a wrong option in a page of text; here it is one line with the valid names.
"""

import difflib
import importlib
import inspect

# Keys of a node that are not arguments of its constructor: the name shown in tables, and whether a strategy replays.
LABELS = ("name", "memory", "_target_")


def locate(node: dict, group: str):
    """The class or function that the node's `_target_` names."""
    target = node.get("_target_")
    if not target:
        raise ValueError(f"{group} has no _target_: expected the dotted name of a class or function")
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{group}._target_={target} cannot be imported: {error}") from error


def build(node: dict, group: str, **given):
    """Call the node's `_target_` with its options and the arguments `given` by the program.

    Raises ValueError, with the valid names, for an option that the target does not take, and for one that is missing.
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
    if missing and not takes_any:
        raise ValueError(f"{group} needs {', '.join(missing)}")
    return target(**options, **given)
