"""The command line around Hydra: flags anywhere, errors in one line, one table at the end.

Hydra gives composition, sweeps, launchers and completion; three things are added to it:

- Hydra's argparse takes no override after a flag (`unrecognized arguments: seed=0,1,2`), so the arguments are put in
  order first: overrides, then flags.
- A user's mistake is one line that says what is valid, and exit status 1; `debug=true` shows the traceback instead.
- After the last job the runs of this command are summed up in one table (mean +- std over seeds).
"""

import difflib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cl import ranks
from cl.build import LABELS
from cl.launch import LAUNCHED, start_ranks

# Hydra's flags that are followed by a value; every other flag stands alone.
FLAGS_WITH_VALUE = {
    "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--cfg", "-c", "--package", "-p",
    "--experimental-rerun",
}  # fmt: skip
# The value of `--info` may be left out, so it is taken only where it is one of Hydra's words.
INFO_VALUES = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}

# What an exchange between ranks raises when one of them is gone, in Horovod, torch.distributed and the replay buffer;
# by name and words, because this file imports none of them.
PEER_ERRORS = re.compile("HorovodInternalError|PeerError|DistBackendError|DistNetworkError|Connection (closed|reset)")

_finished_runs: list[Path] = []  # folders of the runs that this process finished or found finished
_reported: set[str] = set()  # errors already printed: the jobs of a sweep share most of their mistakes
_process: int | None = None  # the process that `launch` runs in


def flags_anywhere(arguments: list[str]) -> list[str]:
    """Arguments in the order that Hydra's parser takes: all overrides, then all flags with their values."""
    overrides, flags = [], []
    rest = iter(arguments)
    pending = next(rest, None)
    while pending is not None:
        argument, pending = pending, next(rest, None)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        takes_value = argument in FLAGS_WITH_VALUE or (argument in ("--info", "-i") and pending in INFO_VALUES)
        if takes_value and pending is not None:
            flags.append(pending)
            pending = next(rest, None)
    return overrides + flags


def launch(main) -> None:
    """Run a `hydra.main` function on `sys.argv`; never returns: exits with 0, 1 (an error) or 130 (interrupted)."""
    global _process
    _process = os.getpid()
    arguments = sys.argv[1:] = flags_anywhere(sys.argv[1:])
    OmegaConf.register_new_resolver("published", published)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on unchanged; they are worded below
    interrupted = False
    try:
        main()
    except KeyboardInterrupt:
        if LAUNCHED not in os.environ:
            print("\ninterrupted: the same command resumes after the last finished task", file=sys.stderr)
        interrupted = True
    except Exception as error:
        # A composition error comes before there is a config, so `debug` is read from the command line as well.
        _report(error, arguments, debug="debug=true" in (argument.lower() for argument in arguments))
    if _finished_runs and LAUNCHED not in os.environ:
        from cl import report

        print("\n" + report.as_text(report.load(_finished_runs)))
    status = 130 if interrupted else 1 if _reported else 0
    if ranks.started():
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> None:
    """End a rank without taking the interpreter down.

    torch.distributed keeps threads that free tensors, and with them ask for the interpreter's lock; one that asks while
    the interpreter ends aborts the process of a run that succeeded (torch 2.15: one in thirty, also with the group
    destroyed).
    """
    if "cl.comm" in sys.modules:  # not imported where the command failed before
        from cl.comm import disconnect

        disconnect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def published(name: str, *, _root_) -> float:
    """`${published:lr}`: a paper's value for the capacity at hand, from the table that an experiment brings."""
    table, capacity = _root_.published, str(_root_.buffer.capacity)
    if capacity not in table:
        raise ValueError(
            f"no published {name} for buffer.capacity={capacity}; there is one for {', '.join(table)}: "
            "choose one of them, or give the strategy's and the optimizer's options yourself"
        )
    return table[capacity][name]


def run_job(config, run: Callable | None = None) -> float | None:
    """One job of a command: trains it, or finds it finished, and notes its folder for the table.

    Returns the average accuracy, the objective of Hydra's optimising sweepers; None after an error, which is said at
    once: a sweep goes on with its other jobs.
    """
    try:
        folders = run(config) if run is not None else [_run_or_find(config)]
    except Exception as error:
        if _process != os.getpid():  # a launcher with processes of its own has to be told by the exception
            raise
        _report(error, [], debug=config.debug)
        return None
    if ranks.rank() > 0:
        return None
    _finished_runs.extend(folder for folder in folders if folder not in _finished_runs)
    content = json.loads((folders[-1] / "results.json").read_text())
    return content.get("average_accuracy", content.get("average_error"))


def _run_or_find(config) -> Path:
    from cl.run_folder import finished_run, plain, run_folder

    launcher = config.launcher.name
    if ranks.started():
        if launcher != "none":
            raise ValueError(f"launcher={launcher} starts ranks itself; within ranks that are started leave it out")
    else:
        folder = finished_run(config)
        if folder is not None:
            return folder
        if launcher != "none":
            overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("launcher")]
            start_ranks(OmegaConf.to_container(config.launcher), overrides)
            return run_folder(plain(config))
    from cl.experiment import run  # imports torch

    return run(config)


def _report(error: Exception, arguments: list[str], debug: bool) -> None:
    line = one_line(error, arguments)
    if line in _reported:
        return
    _reported.add(line)
    if debug:
        traceback.print_exception(error)
    # What is wrong with a command is wrong on every rank; what broke on one of them is said with its number.
    if ranks.rank() > 0 and not isinstance(error, RuntimeError):
        return
    where = f"rank {ranks.rank()}: " if ranks.started() else ""
    print(f"{where}error: {line}", file=sys.stderr)


def one_line(error: Exception, arguments: list[str]) -> str:
    """What went wrong and what is valid, in one line, for the user's and Hydra's errors alike."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group.endswith("/regime"):
            return (
                f"backbone={name} has no conf/{group}/{name}.yaml: add one, or choose optimizer=NAME and schedule=NAME"
            )
        return f"{group}={name} does not exist{_did_you_mean(name, error.options)}; valid: {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read the argument {error.override!r}: {_first_line(error)}"
    if isinstance(error.__cause__, ValueError) and isinstance(error, OmegaConfBaseException):
        return one_line(error.__cause__, arguments)  # raised by a resolver
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _composition_error(error, arguments)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, (ValueError, OSError)):
        return " ".join(str(error).split())
    if ranks.started() and PEER_ERRORS.search(f"{type(error).__name__}: {error}"):
        return f"lost another rank of this run, see what the launcher says of it ({_first_line(error)})"
    return f"{type(error).__name__}: {' '.join(str(error).split())} (debug=true shows where)"


def _composition_error(error: Exception, arguments: list[str]) -> str:
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match is None:
        return _first_line(error).rstrip(".")
    key = match.group(1)
    parent, _, name = key.rpartition(".")
    valid = _valid_keys(parent, arguments)
    if not valid:
        return f"unknown option {key}: there is no {parent!r} in this configuration"
    return f"unknown option {key}{_did_you_mean(name, valid)}; valid: {', '.join(valid)}"


def _valid_keys(parent: str, arguments: list[str]) -> list[str]:
    """The keys below `parent` in the configuration that the group choices among the arguments give."""
    from hydra import compose, initialize_config_dir

    conf = Path(__file__).resolve().parent.parent / "conf"
    groups = {folder.name for folder in conf.iterdir() if folder.is_dir()}
    chosen = [a for a in arguments if a.lstrip("+").partition("=")[0] in groups and "," not in a]
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose(Path(sys.argv[0]).stem if Path(sys.argv[0]).stem in ("run", "merge") else "run", chosen)
    node = OmegaConf.select(config, parent) if parent else config
    return sorted(str(key) for key in node if key not in LABELS) if OmegaConf.is_dict(node) else []


def _did_you_mean(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
