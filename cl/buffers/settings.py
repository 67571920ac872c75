"""The settings of a replay buffer: how its capacity is written down, and which policies and options there are.

This file needs no torch, so that a configuration can be checked before torch is imported.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from inspect import Parameter

import cl.buffers
from cl.buffers.insertion import InsertionPolicy
from cl.buffers.sampling import SamplingPolicy
from cl.build import imported
from cl.values import convert, did_you_mean


def import_policies() -> None:
    """Import every module of this folder that holds a policy, which makes it known."""
    for module in pkgutil.iter_modules(cl.buffers.__path__):
        if module.name.startswith(("insertion_", "sampling_")):
            importlib.import_module(f"cl.buffers.{module.name}")


import_policies()
KINDS = {"insertion": InsertionPolicy, "sampling": SamplingPolicy}


def import_own(node: dict) -> None:
    """Import the policies that the configuration of a buffer names by dotted names, which makes them known.

    Raises ValueError for what is no policy of that kind.
    """
    for key, kind in KINDS.items():
        name = str(node.get(key))
        if "." not in name:
            continue
        found = imported(name, f"buffer.{key}={name}")
        if not (isinstance(found, type) and issubclass(found, kind)) or inspect.isabstract(found):
            lacks = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise ValueError(
                f"buffer.{key}={name} is no {key} policy: expected a class derived from {kind.__module__}."
                f"{kind.__name__}" + (f" that has {lacks}" if lacks else "")
            )
        kind.known[name] = found


def check_native(key: str, name: str) -> None:
    """Raise ValueError for a policy of the user, which the memory in C++ cannot ask."""
    if "." in name:
        raise ValueError(
            f"buffer.{key}={name} is written in Python, and buffer=native in C++: choose buffer=reference (one "
            "process), or write the policy in C++ as well (docs/replay_buffer.md)"
        )


def parse_capacity(capacity: int | str) -> tuple[float, str]:
    """Number and unit ("records", "%" or "/class") of a capacity: 200, "10%" or "20/class"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%|/class)?", str(capacity).replace(" ", ""))
    if match:
        number, unit = float(match.group(1)), match.group(2) or "records"
        if number > 0 and (unit == "%" and number <= 100 or unit != "%" and number.is_integer()):
            return number, unit
    raise ValueError(
        f"buffer.capacity must be a positive number of records, a share of the training samples such as 10%, "
        f"or a number per class such as 20/class; got {capacity!r}"
    )


def total_capacity(capacity: int | str, num_training: int, num_classes: int) -> int:
    """The capacity in records over all ranks."""
    number, unit = parse_capacity(capacity)
    if unit == "%":
        return max(1, round(number / 100 * num_training))
    return int(number * num_classes) if unit == "/class" else int(number)


def policy_options() -> dict[str, object]:
    """The options of all policies by name, with the annotation of each; None is an option that was not given."""
    policies = [*InsertionPolicy.known.values(), *SamplingPolicy.known.values()]
    return {name: kind | None for policy in policies for name, kind in policy.options.items()}


def with_policy_options(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The parameters of a buffer's constructor, with the options of all policies in place of its `**options`."""
    found = dict(parameters)
    if "options" in found and found["options"].kind is Parameter.VAR_KEYWORD:
        del found["options"]
        for name, kind in policy_options().items():
            found[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)
    return found


def check_buffer(node: dict) -> None:
    """Raise ValueError for a configuration of a buffer whose capacity or policies make no sense."""
    parse_capacity(node["capacity"])
    import_own(node)
    if str(node.get("_target_")).endswith(".NativeBuffer"):
        for key in KINDS:
            check_native(key, str(node[key]))
    options = {name: value for name, value in node.items() if name in policy_options()}
    check_policies(node["insertion"], node["sampling"], options)


def check_policies(insertion: str, sampling: str, options: dict) -> tuple[dict, dict]:
    """The options of the insertion and of the sampling policy, converted.

    `options`: values by name, also of other policies; None is one that was not given. Raises ValueError for a policy
    that does not exist, and for options that are missing or that belong to another policy.
    """
    import_own({"insertion": insertion, "sampling": sampling})
    chosen = {"insertion": (InsertionPolicy, insertion), "sampling": (SamplingPolicy, sampling)}
    for key, (kind, name) in chosen.items():
        if name not in list(kind.known):
            valid = sorted(kind.known)
            raise ValueError(
                f"buffer.{key}={name} does not exist{did_you_mean(name, valid)}; valid: {', '.join(valid)}, or "
                "MODULE.CLASS of your own"
            )
    policies = [kind.known[name] for kind, name in chosen.values()]
    got = f"buffer.insertion={insertion} buffer.sampling={sampling}"
    for name, value in options.items():
        if name not in policy_options():
            raise ValueError(f"unknown option buffer.{name}{did_you_mean(name, policy_options())}")
        if value is not None and not any(name in policy.options for policy in policies):
            owners = ", ".join(
                f"buffer.{key}={owner}"
                for key, (kind, _) in chosen.items()
                for owner, policy in kind.known.items()
                if name in policy.options
            )
            raise ValueError(f"buffer.{name}={value} belongs to {owners}, got {got}")
    missing = [name for policy in policies for name in policy.options if options.get(name) is None]
    if missing:
        plus = "" if missing[0] in options else "+"  # the file of the buffer does not have it
        raise ValueError(f"{got} needs buffer.{missing[0]}: set {plus}buffer.{missing[0]}=VALUE")
    return tuple(
        {name: convert(f"buffer.{name}", options[name], kind) for name, kind in policy.options.items()}
        for policy in policies
    )
