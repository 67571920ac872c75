"""The pages of the options reference, made from conf/, the annotations of the code and its docstrings.

Everything is read from source files: no torch is imported, and a page cannot say what the program does not do. The
site's build makes them anew each time (scripts/documentation/hooks.py); they are not kept in the repository.
"""

import re
import typing
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path

import yaml

from cl.buffers.insertion import InsertionPolicy
from cl.buffers.sampling import SamplingPolicy
from cl.buffers.settings import with_policy_options
from cl.build import GIVEN, KINDS, LABELS
from cl.configuration.place import CONF
from cl.configuration.settings import Launcher, Merge, Protocol, Run
from cl.signatures import UnreadableError, docstring_of, parameters_of
from cl.values import describe, one_of
from merging.study.options import Options
from scripts.documentation.meanings import MEANINGS

# The pages in the order of the menu: the title, what the group is for, and the guide that explains it.
GROUPS = {
    "strategy": ("Strategies", "How a network learns one task after another.", "strategies.md"),
    "scenario": ("Scenarios", "How a data set is divided into tasks.", "configuration.md#scenarios"),
    "dataset": ("Data sets", "The samples.", "data_sets.md"),
    "backbone": ("Networks", "The network that is trained.", "configuration.md#networks"),
    "buffer": ("Replay buffer", "The memory of strategies that replay samples.", "replay_buffer.md"),
    "optimizer": ("Optimizers", "The rule of an optimizer step.", "configuration.md#optimizer-and-learning-rate"),
    "schedule": ("Schedules", "The learning rate over a task.", "configuration.md#optimizer-and-learning-rate"),
    "average": ("Averages", "A mean of the weights along training.", "configuration.md#averaging-along-training"),
    "loader": ("Loaders", "How pictures in files are decoded.", "data_sets.md#pictures-in-files"),
    "logger": ("Loggers", "Where the numbers of a run are sent.", "loggers.md"),
    "launcher": ("Launchers", "What starts several ranks.", "distributed.md"),
    "fusion": ("Fusions", "How `merge.py` makes one network of several.", "merging.md#methods"),
    "protocol": ("Protocols", "Details in which comparisons of merging differ.", "merging.md#protocols"),
    "study": ("Studies", "Many runs and merges under equal budgets.", "studies.md"),
    "experiment": ("Experiments", "One file sets all options of a published protocol.", "results.md"),
}
OF_MERGE = ("fusion", "protocol", "study")  # groups that only merge.py has
# The annotations of groups whose files no constructor takes.
SCHEMAS = {
    "launcher": lambda: typing.get_type_hints(Launcher, include_extras=True),
    "protocol": lambda: typing.get_type_hints(Protocol, include_extras=True),
    "study": lambda: typing.get_type_hints(Options, include_extras=True),
}
NOT_OPTIONS = ("defaults", "hydra")  # keys of a file that Hydra reads itself


@dataclass(frozen=True)
class Entry:
    """A key of a file of conf/: its dotted name, its value and its comment as they are written there."""

    key: str
    value: str
    comment: str


def entries(path: Path) -> list[Entry]:
    """The keys of a file in their order, those of nested blocks as well, but not those that Hydra reads."""
    text = path.read_text()
    root = yaml.compose(text)
    root.value = [(name, value) for name, value in root.value if name.value not in NOT_OPTIONS]
    return _entries(root, text.splitlines(), "")


def _entries(node: yaml.MappingNode, lines: list[str], prefix: str) -> list[Entry]:
    found = []
    for name, value in node.value:
        key = prefix + name.value
        block = isinstance(value, (yaml.MappingNode, yaml.SequenceNode)) and not value.flow_style
        end = name.end_mark if block else value.end_mark
        comment = lines[end.line][end.column :].partition("#")[2].strip()
        if block and isinstance(value, yaml.MappingNode):
            nested = _entries(value, lines, f"{key}.")
            found += ([Entry(key, "", comment)] if comment else []) + nested
        else:
            start = value.start_mark
            written = lines[start.line][start.column : end.column] if start.line == value.end_mark.line else ""
            found.append(Entry(key, written, comment))
    return found


def heading(path: Path) -> str:
    """The comment at the top of a file of conf/, in one paragraph."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return _escaped(" ".join(lines))


def prefix_of(path: Path) -> str:
    """What comes before the keys of a group's file on a command line: the group, or the package that the file names."""
    package = re.match(r"# @package (\S+)\n", path.read_text())
    if package is None:
        return f"{path.parent.name}."
    return "" if package[1] == "_global_" else f"{package[1]}."


def page(group: str) -> str:
    """The Markdown of a group's page."""
    title, purpose, guide = GROUPS[group]
    command = "merge.py" if group in OF_MERGE else "run.py"
    files = sorted((CONF / group).glob("*.yaml"))
    choice = f"+{group}=NAME" if group == "experiment" else f"{group}=NAME"
    parts = [
        f"# {title}: `{group}`",
        f"{purpose} Choose one with `python {command} {choice}`. The guide: [{_name(guide)}](../{guide}).",
    ]
    parts += [_experiment(path) if group == "experiment" else _option(group, path) for path in files]
    if (CONF / group / "recipe").is_dir():
        parts.append(_recipes(group))
    return _linked(parts)


def keys_page(command: str) -> str:
    """The Markdown of the page on the keys outside the groups, of run.yaml or merge.yaml (`command`: run or merge)."""
    path = CONF / f"{command}.yaml"
    schema = typing.get_type_hints(Merge if command == "merge" else Run, include_extras=True)
    parts = [
        f"# Options of `{command}.py`",
        heading(path),
        "Set a value by its key: `python run.py seed=1 epochs=2`."
        if command == "run"
        else "These come in addition to all [options of run.py](run.md).",
        _table(entries(path), "", schema),
        "## Groups",
        "| group | default | what it is |\n|---|---|---|\n" + "\n".join(_defaults(path)),
    ]
    return _linked(parts)


def pages() -> dict[str, str]:
    """All pages of the reference: their place below docs/, and their Markdown."""
    of_groups = {f"options/{group}.md": page(group) for group in GROUPS}
    return {f"options/{command}.md": keys_page(command) for command in ("run", "merge")} | of_groups


def _option(group: str, path: Path) -> str:
    """The section of one option of a group."""
    found = entries(path)
    target = next((entry.value for entry in found if entry.key.rpartition(".")[2] == "_target_"), "")
    parts = [f"## {path.stem}", heading(path)]
    if target:
        parts.append(f"Code: `{target}`" + (f"\n\n{_docstring(target)}" if _docstring(target) else ""))
    kinds = SCHEMAS[group]() if group in SCHEMAS else _kinds(group, target)
    shown = [entry for entry in found if entry.key.rpartition(".")[2] not in LABELS]
    parts.append(_table(shown, prefix_of(path), kinds) if shown else "It has no options.")
    return "\n\n".join(part for part in parts if part)


def _experiment(path: Path) -> str:
    return f"## {path.stem}\n\n{heading(path)}\n\n```yaml\n{_without_heading(path)}\n```"


def _recipes(group: str) -> str:
    """The values that the networks bring with them, file by file."""
    files = sorted((CONF / group / "recipe").glob("*.yaml"))
    shown = [f"### recipe/{path.stem}\n\n```yaml\n{path.read_text().strip()}\n```" for path in files]
    begin = "## Recipes\n\nWithout a choice, each network takes the values that it was published with."
    return "\n\n".join([begin, *shown])


def _without_heading(path: Path) -> str:
    lines = path.read_text().strip().splitlines()
    while lines and lines[0].startswith("#"):
        del lines[0]
    return "\n".join(lines)


def _table(rows: list[Entry], prefix: str, kinds: dict) -> str:
    shown, group = [], prefix.partition(".")[0]
    for entry in rows:
        kind, example = _kind_of(entry.key, kinds), f"`{entry.value}`" if entry.value else ""
        cells = (
            f"`{prefix}{entry.key}`",
            example,
            kind,
            _escaped(entry.comment or MEANINGS.get(f"{group}.{entry.key}" if group else entry.key, "")),
        )
        shown.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(["| option | default | values | meaning |", "|---|---|---|---|", *shown])


def _kind_of(key: str, kinds: dict) -> str:
    """The values of a dotted key in words, from annotations that may be nested; "" if nothing says."""
    top, _, rest = key.partition(".")
    kind = kinds.get(top)
    if isinstance(kind, str):
        return kind
    if not rest:
        return "several keys" if typing.is_typeddict(kind) else describe(kind) if kind is not None else ""
    if typing.is_typeddict(kind):
        return _kind_of(rest, typing.get_type_hints(kind, include_extras=True))
    return ""


def _kinds(group: str, target: str) -> dict:
    """The annotations of a constructor's options, as `cl.build` checks them, or the values in words."""
    try:
        parameters = parameters_of(target) if target else {}
    except UnreadableError:
        return {}
    if group == "buffer":  # of which cl.buffers.settings checks some itself
        own = {"capacity": "a whole number, a percentage, or a number per class", **_policies()}
        parameters = {name: value for name, value in with_policy_options(parameters).items() if name not in own}
        return _kinds_of(parameters, group) | own
    return _kinds_of(parameters, group) | KINDS.get(group, {})


def _kinds_of(parameters: dict[str, Parameter], group: str) -> dict:
    given = GIVEN.get(group, ())
    return {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if name not in given and parameter.annotation is not Parameter.empty
    }


def _policies() -> dict[str, str]:
    kinds = {"insertion": InsertionPolicy, "sampling": SamplingPolicy}
    ours = {key: sorted(name for name in kind.known if "." not in name) for key, kind in kinds.items()}
    return {key: one_of(names) for key, names in ours.items()}


def _docstring(target: str) -> str:
    """What the code says of itself; of other packages their own pages tell."""
    if not target.startswith(("cl.", "merging.")):
        return ""
    return _escaped(docstring_of(target))


def _defaults(path: Path) -> list[str]:
    """A row of the table of groups for each group that a file of conf/ chooses from."""
    chosen = [item for item in yaml.safe_load(path.read_text())["defaults"] if isinstance(item, dict)]
    pairs = [(key.removeprefix("override "), value) for item in chosen for key, value in item.items()]
    return [
        f"| [`{group}`]({group}.md) | `{_chosen(value)}` | {GROUPS[group][1]} |"
        for group, value in pairs
        if group in GROUPS
    ]


def _linked(parts: list[str]) -> str:
    """One text, in which the pages that comments and docstrings name are links."""
    text = "\n\n".join(part for part in parts if part) + "\n"
    return re.sub(r"\bdocs/(\w+)\.md", r"[\1](../\1.md)", text)


def _escaped(text: str) -> str:
    """Text of a comment or docstring whose <root> is no HTML; what is in backticks stays as it is."""
    pieces = text.split("`")
    return "`".join(piece if number % 2 else piece.replace("<", "&lt;") for number, piece in enumerate(pieces))


def _chosen(value: str | list | None) -> str:
    return "null" if value is None else f"[{', '.join(value)}]" if isinstance(value, list) else value


def _name(guide: str) -> str:
    return guide.partition(".md")[0].replace("_", " ")
