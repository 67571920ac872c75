"""The words of a command line, checked and put in order before Hydra reads them.

Hydra's parser takes no override after a flag, answers an unknown flag with a page of usage, and takes a plus, a tilde
and a missing equals sign for something else than what was meant. What can be said without a configuration is said here.
"""

from omegaconf import OmegaConf

from cl.configuration import place
from cl.configuration.settings import ADDED, LOGGER_KEYS, MERGE_GROUPS, MERGE_KEYS, RUN_GROUPS, Merge, Run
from cl.values import did_you_mean, one_of

# Hydra's flags that are followed by a value; all others stand alone. Of some the value is one of these.
FLAGS_WITH_VALUE = {
    "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--cfg", "-c", "--package", "-p",
    "--experimental-rerun",
}  # fmt: skip
FLAGS = {
    *FLAGS_WITH_VALUE, "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc", "--info", "-i",
}  # fmt: skip
SHOWN = ("job", "hydra", "all")  # values of --cfg
# Keys that had another name once, and the name they have now.
RENAMED = {
    "buffer.admission": "buffer.insertion",
    "buffer.draw": "buffer.sampling",
    "passes": "gradient_accumulation_steps",
}
SEVERAL = ("experiment", "logger")  # of which several options may be put together
# The value of --info may be left out, so it is taken only where it is one of these.
INFO_VALUES = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}


def ordered(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Overrides, and flags with their values, for Hydra's parser: it takes all of the first before any of the second.

    Raises ValueError for a flag that Hydra does not have, and for a value that is missing.
    """
    overrides, flags = [], []
    rest = iter(arguments)
    pending = next(rest, None)
    while pending is not None:
        argument, pending = pending, next(rest, None)
        if not argument.startswith("-"):
            overrides.append(_hosts_as_text(respelled(argument)))
            continue
        flag, equals, value = argument.partition("=")
        if flag not in FLAGS:
            raise ValueError(_unknown_flag(flag, value if equals else pending))
        flags.append(argument)
        takes_value = flag in FLAGS_WITH_VALUE and not equals
        if takes_value and (pending is None or pending.startswith("-")):
            raise ValueError(f"{flag} needs a value: {one_of(SHOWN) if flag in ('--cfg', '-c') else f'{flag} VALUE'}")
        if takes_value or (flag in ("--info", "-i") and pending in INFO_VALUES):
            flags.append(pending)
            value, pending = pending, next(rest, None)
        if flag in ("--cfg", "-c") and value not in SHOWN:
            raise ValueError(f"{flag} must be {one_of(SHOWN)}, got {value!r}{did_you_mean(value, SHOWN)}")
    return overrides, flags


def respelled(override: str) -> str:
    """An override with the key that it has now: `logger.mode=offline` goes on working."""
    bare = override.partition("=")[0].lstrip("+~")
    return override.replace(bare, LOGGER_KEYS[bare], 1) if bare in LOGGER_KEYS else override


def _hosts_as_text(override: str) -> str:
    """Hosts in quotes: Hydra would sweep over `launcher.hosts=a:4,b:4`, and take `[fd00::1]:4` for a list."""
    key, _, value = override.partition("=")
    plain = value.strip() and not value.startswith(("'", '"')) and value != "null"
    return f"{key}='{value}'" if key.lstrip("+") == "launcher.hosts" and plain else override


def options(group: str) -> list[str]:
    """The names of a group's options, with those of the user."""
    return place.names(group)


def options_with(group: str, name: str) -> list[str]:
    """The options that have a value with that name."""
    found = []
    for option in options(group):
        node = OmegaConf.to_container(OmegaConf.load(place.file_of(group, option)))
        if name in node.get(group, node):
            found.append(option)
    return found


def is_sweep(flags: list[str]) -> bool:
    """Whether the flags ask for several jobs."""
    return "-m" in flags or "--multirun" in flags


def check_overrides(overrides: list[str], command: str) -> None:
    """Raise ValueError for words that are no settings of run.py or merge.py (`command`: run or merge)."""
    groups = {*MERGE_GROUPS, "launcher", "protocol", "study"} if command == "merge" else {*RUN_GROUPS, "launcher"}
    keys = Merge.__annotations__ if command == "merge" else Run.__annotations__
    known = sorted({*keys, *groups})
    for number, override in enumerate(overrides):
        key, equals, value = override.partition("=")
        if not equals and not override.startswith("~"):
            raise ValueError(_no_setting(overrides, number, known))
        bare = key.lstrip("+~")
        if bare in RENAMED:
            raise ValueError(f"{bare} is now {RENAMED[bare]}")
        if bare.startswith("hydra"):
            continue
        top = bare.partition(".")[0]
        opened = "{" if bare in SEVERAL else "[{"
        if key.startswith("~"):
            if top not in known:
                raise ValueError(f"{override}: there is no {top} to take out{did_you_mean(top, known)}")
            # Below that are the free words of an option such as backbone.options; and what an experiment sets for one
            # option has to be taken out for another: +experiment=skewed_mnist strategy=er ~strategy.init
            if bare.count(".") < 2 and not _foreign(bare, overrides) and not (top in ADDED and "." in bare):
                key = top if top in SEVERAL else bare
                raise ValueError(f"{override} takes out what is needed: set another value, {key}=VALUE")
        elif key == "experiment":
            raise ValueError(f"an experiment is added, with a plus: +experiment={value}")
        elif key == "++experiment":
            raise ValueError(f"an experiment is added, with one plus: +experiment={value}")
        elif key.startswith("+") and (bare in groups or key == f"+{bare}" and bare in keys):
            raise ValueError(f"{bare} is there already, so it is set without a plus: {bare}={value}")
        elif top in MERGE_KEYS and command == "run":
            raise ValueError(f"{override} is for merge.py: run.py has no {top}")
        elif bare in (*groups, "experiment") and (value in ("", "null", "[]") or value[0] in opened):
            valid = ", ".join(options(bare))
            many = " or of several, [csv,wandb]," if bare == "logger" else ","
            raise ValueError(f"{bare} must be the name of one option{many} got {value or repr('')}; valid: {valid}")


def _foreign(key: str, overrides: list[str]) -> bool:
    """Whether the option that is chosen among the overrides has nothing by that name itself."""
    group, _, name = key.partition(".")
    chosen = [override.partition("=")[2] for override in overrides if override.startswith(f"{group}=")]
    return bool(chosen and name) and not set(chosen[-1].split(",")) & set(options_with(group, name))


def _unknown_flag(flag: str, value: str | None) -> str:
    name = flag.lstrip("-")
    if name.partition(".")[0] in {*Merge.__annotations__, *MERGE_GROUPS, "experiment"}:
        plus = "+" if name == "experiment" else ""
        value = "VALUE" if value is None or "=" in value or value.startswith("-") else value
        return f"unknown flag {flag}: settings have no dashes, write {plus}{name}={value}"
    return f"unknown flag {flag}{did_you_mean(flag, FLAGS)}; valid: {', '.join(sorted(FLAGS))}"


def _no_setting(overrides: list[str], number: int, names: list[str]) -> str:
    """What is said of a word without an equals sign."""
    word, before = overrides[number], overrides[number - 1] if number else ""
    after = [*overrides[number + 1 : number + 3], "", ""]
    if before.count("[") > before.count("]") or before.count("{") > before.count("}"):
        return f"cannot read the argument {before!r}: a list is written without spaces, or the whole of it in quotes"
    name, colon, value = word.partition(":")
    if before.endswith("="):
        meant = before + word
    elif after[0] == "=":
        meant = f"{word}={after[1] or 'VALUE'}"
    elif after[0].startswith("="):
        meant = word + after[0]
    else:
        value = value or (after[0] if after[0] and "=" not in after[0] else "VALUE")
        meant = f"{name if colon else word}={value}"
    known = meant.partition("=")[0].partition(".")[0].lstrip("+")
    if known == "experiment":
        meant = f"+{meant.lstrip('+')}"
    elif known not in names:
        meant = "KEY=VALUE" + did_you_mean(known, names)
    return f"cannot read the argument {word!r}: settings have an equals sign and no spaces, write {meant}"
