"""Whose code a configuration may name: ours, and that of the modules which the user lists in `trust`.

A `_target_` is imported and called, and so is a policy of the replay memory by dotted name, so a configuration is a
program. What the files in conf/ name belongs to remerge; anything else, also another function of cl or of torch, is
refused before it is imported, unless `trust` has its module.
"""

import functools
import re
from collections.abc import Iterator

from cl.configuration.place import CONF

POLICIES = ("buffer.insertion", "buffer.sampling")


def check_trust(config: dict) -> None:
    """Raise ValueError for a `_target_`, at any depth of a resolved configuration, outside remerge and `trust`."""
    known, trusted = ours(), config["trust"]
    foreign = [
        (key, target)
        for key, target in targets(config)
        if target not in known and not any(target.startswith(f"{name}.") for name in trusted)
    ]
    if foreign:
        modules = list(dict.fromkeys(target.rpartition(".")[0] or target for _, target in foreign))
        raise ValueError(
            f"{foreign[0][0]}={foreign[0][1]} is no component of remerge: if you trust the code of "
            f"{' and '.join(modules)}, add trust=[{','.join([*trusted, *modules])}]"
        )


def check_given(config, overrides: list[str]) -> None:
    """Raise ValueError where a file, and not a word of the command line, says what is trusted."""
    trusted = config.get("trust")
    if trusted and not any(word.lstrip("+").startswith("trust=") for word in overrides):
        names = trusted if isinstance(trusted, str) else ",".join(map(str, trusted))
        raise ValueError(
            f"trust=[{names}] stands in a file, and a file cannot vouch for the code that it names: if you trust it, "
            f"add trust=[{names}] to the command"
        )


def targets(node, key: str = "") -> Iterator[tuple[str, str]]:
    """What a node names to be imported, with its key: every `_target_`, and the policies of a buffer by dotted name."""
    if isinstance(node, dict):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            if value and (name == "_target_" or inner in POLICIES and "." in str(value)):
                yield inner, str(value)
            yield from targets(value, inner)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from targets(value, f"{key}[{place}]")


@functools.cache
def ours() -> frozenset[str]:
    """What the files in conf/ name; read as text, because parsing all of them takes longer than a finished run."""
    found = (re.findall(r"\b_target_:\s*([\w.]+)", path.read_text()) for path in CONF.rglob("*.yaml"))
    return frozenset(target for of_file in found for target in of_file)
