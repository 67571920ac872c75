"""What went wrong with a command, in one line that says what is valid; for errors of Hydra as for our own."""

import itertools
import re
import sys
import traceback
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cl.build import LABELS
from cl.configuration.arguments import options, options_with
from cl.configuration.place import CONF, ROOT, own_folders
from cl.configuration.plugins import package_of
from cl.configuration.settings import ADDED, MERGE_GROUPS, Merge
from cl.distributed import ranks
from cl.values import did_you_mean

# What other suites call some of ours (docs/from_other_suites.md).
ELSEWHERE = {
    "model": "strategy", "buffer_size": "buffer.capacity", "mem_size": "buffer.capacity", "n_epochs": "epochs",
    "train_epochs": "epochs", "train_mb_size": "batch_size", "eval_mb_size": "eval_batch_size",
    "minibatch_size": "strategy.replay_batch_size", "n_experiences": "scenario.num_tasks", "benchmark": "scenario",
    "naive": "finetune", "sgd": "finetune", "replay": "er", "cumulative": "joint",
    "seq-mnist": "dataset=mnist scenario=class5", "seq-cifar10": "dataset=cifar10 scenario=class5",
}  # fmt: skip
# What an exchange between ranks raises when one of them is gone, in Horovod, torch.distributed and the replay buffer;
# by name and words, because this file imports none of them.
PEER_ERRORS = re.compile(
    "HorovodInternalError|PeerError|DistBackendError|DistNetworkError|DistStoreError|Connection (closed|reset)"
)

# What launchers of others raise when a process of theirs has died; they add pages of what it said.
PROCESS_ERRORS = ("TerminatedWorkerError", "UncompletedJobError")


def one_line(error: Exception, command: str, overrides: list[str], searchpath: str | None = None) -> str:
    """What to print of an error.

    `command` is run or merge, `overrides` are those of its command line, `searchpath` its folder of further options.
    """
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        text = error.override
        opened = any(text.count(first) > text.count(last) for first, last in ("[]", "{}", "()"))
        return f"cannot read the argument {text!r}: {'a bracket is not closed' if opened else _first_line(error)}"
    if isinstance(error.__cause__, ValueError) and isinstance(error, OmegaConfBaseException):
        return one_line(error.__cause__, command, overrides)  # raised by a resolver
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _composition_error(error, command, overrides, searchpath)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, (ValueError, OSError)):
        text = " ".join(str(error).split())
        return text + _of_experiment(text, overrides)
    if is_loss(error):
        return f"lost another rank of this run, see what the launcher says of it ({_first_line(error)})"
    if type(error).__name__ in PROCESS_ERRORS:
        return f"a process of the launcher has ended before its job was done ({_first_line(error)})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{_where(error)} (debug=true shows all of it)"


def _where(error: Exception) -> str:
    """The line that raised an error, or the last one of the user's own code before it."""
    frames = traceback.extract_tb(error.__traceback__)
    others = [*(ROOT / name for name in ("cl", "merging", "remerge")), Path(sys.base_prefix), Path(sys.prefix)]
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(other) for other in others)]
    frames = own or frames
    return f", {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def is_loss(error: BaseException) -> bool:
    """Whether an error of a rank says that it has lost another one."""
    if isinstance(error, (ValueError, OSError)) and not isinstance(error, ConnectionError):
        return False
    return bool(PEER_ERRORS.search(f"{type(error).__name__}: {error}")) and ranks.started() is not None


def _missing_option(error: MissingConfigException) -> str:
    if match := re.search(r"Could not load '(\w+)/(\w+)'", str(error)):  # one of a list
        group, name = match.groups()
        valid = options(group)
        return f"{group}={name} does not exist{did_you_mean(name, valid)}; valid: {', '.join(valid)}"
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if missing := package_of(group, name):
        return missing
    if error.options is None:
        return _first_line(error).rstrip(".")
    valid = [option for option in error.options if option != "recipe"]
    if group.endswith("/recipe"):
        return f"backbone={name} has no conf/{group}/{name}.yaml: add one, or choose optimizer=NAME and schedule=NAME"
    # The number in the name of a scenario is only that of its tasks.
    kind, number = re.fullmatch(r"(.*?)(\d*)", name).groups()
    same = [option for option in valid if re.fullmatch(rf"{re.escape(kind)}\d+", option)]
    if group == "scenario" and number and same and kind != "skewed":
        return (
            f"scenario={name} does not exist; {int(number)} tasks are scenario={same[0]} "
            f"scenario.num_tasks={int(number)}; valid: {', '.join(valid)}"
        )
    hint = f" (here it is {ELSEWHERE[name.lower()]})" if name.lower() in ELSEWHERE else did_you_mean(name, valid)
    return f"{group}={name} does not exist{hint}; valid: {', '.join(valid)}{_no_groups()}"


def _no_groups() -> str:
    """A hint at a folder of --config-dir that has no options, because it is the one above or below, perhaps."""
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    empty = [str(folder) for folder in own_folders() if not any((folder / group).is_dir() for group in groups)]
    return f"; {empty[0]} has no options: expected {empty[0]}/GROUP/NAME.yaml" if empty else ""


def _composition_error(error: Exception, command: str, overrides: list[str], searchpath: str | None) -> str:
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_option(match.group(1), command, overrides, searchpath)
    if match := re.search(r"Ambiguous value for argument '(.+?)=(.*)'", text):
        key, values = match.groups()
        takes_list = "list" in str(Merge.__annotations__.get(key, "")) or "." in key
        one = f", or make it a list, {key}=[{values}]" if takes_list else ""
        return f"{key}={values} has several values: add -m to sweep over them{one}"
    if match := re.search(r"Sweep parameters '(.+?)' requires --multirun", text):
        return f"{match[1]} has several values: add -m to sweep over them"
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} is there already, so it is set without a plus: {match[1]}=VALUE, not +{match[1]}=VALUE"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} must be given, for example {match[1]}=..."
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    where = re.search(r"full_key: (\S+)", str(cause))
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", _first_line(cause).rstrip("."))
    return (f"{where[1]}: " if where else "") + reason


def _unknown_option(key: str, command: str, overrides: list[str], searchpath: str | None) -> str:
    parent, _, name = key.rpartition(".")
    for choices in _choices(overrides):
        config = _composed(command, choices, searchpath)
        node = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(node) or name not in node:
            break
    if not parent:
        valid = sorted(str(key) for key in node if key != "hydra")
        within = [f"{group}.{name}" for group in valid if OmegaConf.is_dict(node[group]) and name in node[group]]
        hint = f" (did you mean {' or '.join(within)}?)" if within else did_you_mean(name, valid)
        hint = f" (here it is {ELSEWHERE[name]})" if name in ELSEWHERE else hint
        return f"unknown option {key}{hint}; valid: {', '.join(valid)}"
    if key.partition(".")[0] in ADDED:
        return f"{key} is new, so it is set with a plus: +{key}=VALUE"
    if node is None and parent.startswith("logger."):
        name = parent.partition(".")[2]
        return f"unknown option {key}: add this logger, logger={name}, or with others logger=[csv,{name}]"
    if node is None:
        valid = sorted(str(key) for key in config if key != "hydra")
        return f"unknown option {key}: there is no {parent}{did_you_mean(parent, valid)}; valid: {', '.join(valid)}"
    if not OmegaConf.is_dict(node):
        return f"unknown option {key}: {parent} is a value without options, set {parent}=VALUE"
    valid = sorted(str(key) for key in node if key not in LABELS)
    chosen = f"{parent}={OmegaConf.to_container(node).get('name')}" if parent in MERGE_GROUPS else parent
    if parent in MERGE_GROUPS:
        choice = config.hydra.runtime.choices.get(parent, "")
        chosen = chosen if "/" in choice else f"{parent}={choice}"
    words = f"unknown option {key}{did_you_mean(name, valid)}; "
    words += f"valid for {chosen}: {', '.join(valid)}" if valid else f"{chosen} has no options"
    others = options_with(parent, name)
    return words + (f"; {parent}={', '.join(others)} can take {name}" if others else "")


def _of_experiment(text: str, overrides: list[str]) -> str:
    """Where an unknown option comes from that the user has not typed; "" of others."""
    match = re.match(r"unknown option ([\w.]+)", text)
    experiment = next((word for word in overrides if word.startswith("+experiment=")), None)
    if match is None or experiment is None or any(word.lstrip("+").startswith(f"{match[1]}=") for word in overrides):
        return ""
    return f"; it is set by {experiment}: take it out with ~{match[1]}"


def _choices(overrides: list[str]):
    """The options of groups among the overrides, one list for each job of a sweep over them."""
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    chosen = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group in groups:
            element = override.get_key_element()
            one = [] if override.is_sweep_override() else [override.get_value_element_as_str()]
            words = one or override.sweep_string_iterator()
            chosen.append([f"{element}={word}" for word in words])
    return itertools.product(*chosen)


def _composed(command: str, choices, searchpath: str | None):
    hydra, own = GlobalHydra.instance(), HydraConfig.instance()
    outer = hydra.hydra, own.cfg  # of whoever calls this
    hydra.clear()
    own.cfg = None
    extra = [f"hydra.searchpath=['{Path(searchpath).resolve()}']"] if searchpath else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(command, [*choices, *extra], return_hydra_config=True)
    finally:
        hydra.hydra, own.cfg = outer


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
