"""Every command and every option that the documentation shows is one that works, as far as composing can tell."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from support import ROOT

from cl.buffers.settings import check_buffer
from cl.configuration import arguments
from cl.configuration.composing import composed
from cl.configuration.settings import checked
from cl.run.checks import check_options
from merging.study.options import Options
from scripts.documentation import blocks, options

COMMANDS = {
    (command, *words): page.name for page in blocks.pages(ROOT) for command, words in blocks.commands(page.read_text())
}
GROUPS = sorted(options.GROUPS)
EXAMPLES = ROOT / "docs" / "examples" / "conf"
# What stands for something of the reader's, and what takes its place here. All other words are used as they are.
LEFT_OUT = ("...", "WORDS")  # further options
VARIABLE = re.compile(r"\$\w+")  # of the shell
NAMED = re.compile(rf"^\+?({'|'.join(GROUPS)})=NAME$")  # any option of a group


def replaced(words: list[str]) -> list[str]:
    """The words with something definite in place of what the reader has to fill in."""
    found = []
    for word in words:
        if word in LEFT_OUT:
            continue
        if named := NAMED.match(word):
            word = word.replace("NAME", arguments.options(named.group(1))[0])
        found.append(VARIABLE.sub("somewhere", word))
    return found


def jobs(words: list[str], sweep: bool) -> list[list[str]]:
    """The words of enough jobs of a sweep that each value is in one of them; of a single run the words themselves."""
    if not sweep:
        return [words]
    choices = [values_of(override) for override in OverridesParser.create().parse_overrides(words)]
    keys = [word.partition("=")[0] for word in words]
    number = max((len(values) for key, values in zip(keys, choices) if key != "seed"), default=1)
    return [
        [
            f"{key}={values[job % len(values)]}" if "=" in word else word
            for word, key, values in zip(words, keys, choices)
        ]
        for job in range(number)
    ]


def values_of(override: Override) -> list[str]:
    """The values that a word gives to its key; of an interval, from which a sweeper draws, the lower bound."""
    if override.is_interval_sweep():
        return [str(override.value().start)]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def check(command: str, words: list[str]) -> None:
    """Raise the error that the command would end with before it reads data, if there is one."""
    overrides, flags = arguments.ordered(replaced(words))
    if {"--help", "--hydra-help", "-sc", "--shell-completion"} & set(flags):
        return
    arguments.check_overrides(overrides, command)
    study = [word for word in overrides if word.startswith("study=")]
    folder = ROOT / flags[flags.index("--config-dir") + 1] if "--config-dir" in flags else None
    if folder and not folder.is_dir():  # the reader's own
        folder = EXAMPLES
    for job in jobs(overrides, arguments.is_sweep(flags) and not study):
        if study:  # it takes its seeds as one job
            job = [word for word in job if not word.startswith("seed=")]
        config = OmegaConf.to_container(composed(command, job, folder), resolve=True)
        known = config.pop("study", None)
        config = checked(config)
        check_options(config)
        if not config["trust"]:  # else a policy may be of the reader's own
            check_buffer(config["buffer"])
        if known:
            Options.read(known)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: f"{COMMANDS[line]}: {' '.join(line)}"[:120])
def test_every_command_in_the_documentation_composes(line):
    command, *words = line
    check(command, words)


def test_commands_are_found_in_every_form():
    text = """
    python run.py strategy=er      what it does
    python merge.py fusion=avg,ties \\
        seed=1 -m   # a comment

Use `python run.py seed=3` or `make`.

```console
$ remerge-run strategy=er | tail
strategy=er 90.0
```

```python
print("python run.py seed=4")
```

    srun python run.py strategy=derpp
    srun torchrun --nnodes=2 run.py strategy=agem
    eval "$(python run.py -sc install=bash)"
"""
    assert blocks.commands(text) == [
        ("run", ["strategy=er"]),
        ("merge", ["fusion=avg,ties", "seed=1", "-m"]),
        ("run", ["seed=3"]),
        ("run", ["strategy=derpp"]),
        ("run", ["strategy=agem"]),
        ("run", ["-sc", "install=bash"]),
    ]
    assert len(COMMANDS) > 80
    assert {"README.md", "merging.md", "clusters.md", "results.md"} <= set(COMMANDS.values())


@pytest.mark.parametrize(
    "command, words",
    [
        ("run", ["strategy=err"]),
        ("run", ["strategy=er", "strategy.alpha=1"]),
        ("run", ["strategy=er,derpp"]),
        ("run", ["strategy=er,lwff", "-m"]),
        ("run", ["buffer.capacity=200", "epochs=-1"]),
        ("run", ["fusion=avg"]),
        ("merge", ["study=equal_budget", "study.passes=0"]),
    ],
)
def test_a_command_that_fails_is_told(command, words):
    with pytest.raises(Exception):
        check(command, words)


def every_key() -> set[str]:
    """All dotted keys of conf/, with their groups."""
    found = {entry.key for command in ("run", "merge") for entry in options.entries(ROOT / "conf" / f"{command}.yaml")}
    for path in [*(ROOT / "conf").glob("*/*.yaml"), *EXAMPLES.glob("*/*.yaml")]:
        found |= {options.prefix_of(path) + entry.key for entry in options.entries(path)}
    return found | {key.rpartition(".")[0] for key in found} | {"mixing.mixup", "mixing.cutmix"}


SETTING = re.compile(r"^(?:~|\+{0,2})([a-z_][a-z_.]*)=((?!\")\S*)$")  # a quote begins an argument in Python
# Names of the reader's own.
FREE = ("metrics.", "callbacks.", "hydra", "backbone.options.", "study.words.", "experiment")


@pytest.mark.parametrize("page", blocks.pages(ROOT), ids=lambda page: page.name)
def test_every_setting_in_the_text_has_a_key_that_exists(page):
    keys, known = every_key(), {*GROUPS, "trust", "launcher"}
    unknown = []
    for span in blocks.SPAN.findall(without_blocks(page.read_text())):
        for word in span.split() if SETTING.match(span.split()[0]) else ():
            match = SETTING.match(word)
            if match is None or match.group(1).startswith(FREE):
                continue
            key, value = match.groups()
            if key in known and re.fullmatch(r"[a-z0-9_,]+", value) and key not in ("study", "trust"):
                own = {path.stem for path in (EXAMPLES / key).glob("*.yaml")}
                missing = set(value.split(",")) - set(arguments.options(key)) - own - {"null"}
                unknown += [f"{key}={name}" for name in missing]
            elif key not in keys | known:
                unknown.append(word)
    assert unknown == []


def without_blocks(text: str) -> str:
    inside = {number for block in blocks.fenced(text) for number in range(block.start - 1, block.end + 1)}
    return "\n".join(line for number, line in enumerate(text.splitlines()) if number not in inside)


FILE = re.compile(r"(?:cl|merging|remerge|native|tests|benchmarks|scripts|docs|examples)/[\w./*-]+")
TARGET = re.compile(r"\bmake (?:-C (native) )?([a-z][\w-]*)")


@pytest.mark.parametrize("page", blocks.pages(ROOT), ids=lambda page: page.name)
def test_every_file_and_every_target_of_make_that_a_page_names_is_there(page):
    text = page.read_text()
    spans = [word for span in blocks.SPAN.findall(without_blocks(text)) for word in span.split()]
    files = [word for word in spans if FILE.fullmatch(word) and "NAME" not in word]
    named = [word for word in files if "." in word or word.endswith("/")]  # others may be names of numbers
    missing = [word for word in named if not list(ROOT.glob(word.rstrip("/")))]
    for folder, target in TARGET.findall("\n".join([*blocks.SPAN.findall(text), *indented(text)])):
        rules = (ROOT / folder / "Makefile").read_text()
        if not re.search(rf"^{target}:|^\.PHONY:.*\b{target}\b", rules, re.MULTILINE):
            missing.append(f"make {target}")
    assert missing == []


def indented(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("    ")]
