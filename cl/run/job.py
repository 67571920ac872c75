"""One job of a command or of a notebook: checks it, finds it finished or trains it, here or on ranks of its own."""

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cl import imports
from cl.configuration.place import program as program_of
from cl.distributed import ranks
from cl.reporting import opening, screen
from cl.reporting.backfill import tell_agent
from cl.run.checks import check
from cl.run.folder import begun_elsewhere, finished_run, plain, run_folder
from cl.run.mistakes import one_line

SENDABLE = ("wandb", "tensorboard")  # the loggers that `cl.report` sends finished runs to


class SeedsFailed(ValueError):
    """Some of the seeds of a command failed; `folders` are those of the others."""

    def __init__(self, folders: Sequence[Path], failures: Mapping[int, BaseException]):
        self.folders = list(folders)
        lines: dict[str, list[int]] = {}
        for seed, error in failures.items():
            lines.setdefault(one_line(error, "run", []), []).append(seed)
        said = "; ".join(f"seed {', '.join(map(str, seeds))}: {line}" for line, seeds in lines.items())
        super().__init__(f"{len(failures)} of {len(folders) + len(failures)} seeds failed: {said}")


def run_or_find_each(config, words: Sequence[str], program: Sequence[str] | None = None) -> list[Path]:
    """The folders of the runs that a configuration asks for, one for each of its `seeds`; arguments of `run_or_find`.

    Those that were not finished before are trained together where that is possible, else one after the other. Raises
    SeedsFailed, once all are done, if some of several failed.
    """
    if config.get("seeds") == 1:  # of nearly all commands: what follows is not free
        return [run_or_find(config, words, program)]
    settings = plain(config)
    if ranks.started():
        raise ValueError(
            f"seeds={settings['seeds']} are several runs, and these are ranks of one: give each run its seed, or let "
            "launcher=torchrun start the ranks"
        )
    seeds = range(settings["seed"], settings["seed"] + settings["seeds"])
    kept = [word for word in words if word.partition("=")[0] not in ("seed", "seeds")]
    each = {seed: _of_seed(config, seed) for seed in seeds}
    found: dict[int, Path | BaseException] = {seed: _found(config) for seed, config in each.items()}
    left = [seed for seed in seeds if found[seed] is None]
    if len(left) > 1 and (reason := _why_not(each[left[0]])):
        screen.say(f"seeds={len(seeds)} are trained one after the other: {reason}")
    if len(left) > 1 and not reason:
        found |= zip(left, _together([each[seed] for seed in left]))
    else:
        for seed in left:
            try:
                found[seed] = run_or_find(each[seed], [*kept, f"seed={seed}"], program)
            except Exception as error:
                found[seed] = error
    return _all_of(found)


def _of_seed(config, seed: int):
    own = copy.deepcopy(config)
    own.seed, own.seeds = seed, 1
    return own


def _why_not(config) -> str:
    """Why seeds are not trained together; before torch is imported where that is known."""
    check(plain(config))
    if config.launcher.name != "none":
        return f"launcher={config.launcher.name} starts the ranks of one run"
    with imports.many():
        from cl.run.together import why_not  # imports torch

    return why_not(config)


def _together(configs: Sequence) -> list[Path | BaseException]:
    from cl.run.together import run_together

    for config in configs:
        opening.run(plain(config), run_folder(plain(config)))
    return run_together(configs)


def _all_of(found: dict[int, Path | BaseException]) -> list[Path]:
    """The folders, if nothing has failed; a signal, and what has gone wrong with all alike, is raised as it is."""
    failures = {seed: error for seed, error in found.items() if isinstance(error, BaseException)}
    stopped = [error for error in failures.values() if not isinstance(error, Exception)]
    if stopped or len({repr(error) for error in failures.values()}) == 1 and len(failures) == len(found):
        raise (stopped or list(failures.values()))[-1]
    folders = [folder for seed, folder in found.items() if seed not in failures]
    if failures:
        raise SeedsFailed(folders, failures) from next(iter(failures.values()))
    return folders


def run_or_find(config, words: Sequence[str], program: Sequence[str] | None = None) -> Path:
    """The folder of a run, which is trained if it was not finished before.

    `config`: OmegaConf. `words`: the overrides from which ranks compose the same configuration, also those on other
    hosts. `program`: what Python is given to start a rank, before these words; None: the script of this process.
    """
    launcher = config.launcher.name
    if ranks.started():
        if launcher != "none":
            raise ValueError(f"launcher={launcher} starts ranks itself; within ranks that are started leave it out")
        if ranks.rank() == 0 and ranks.LAUNCHED not in os.environ:  # else the launcher has said it
            opening.run(plain(config), run_folder(plain(config)))
    else:
        folder = _found(config)
        if folder is not None:
            return folder
        check(plain(config))
        if hint := begun_elsewhere(plain(config)):
            screen.say(hint)
        opening.run(plain(config), run_folder(plain(config)))
        if launcher != "none":
            from cl.distributed.launch import start_ranks

            config = plain(config)
            words = [word for word in words if not word.startswith("launcher")]
            start_ranks(config["launcher"], words, config["timeout"], program or [sys.argv[0]])
            return run_folder(config)
    with imports.many():
        from cl.run.experiment import run  # imports torch

    return run(config)


def _found(config) -> Path | None:
    """The folder of a run that was finished before."""
    folder = finished_run(config)
    if folder is not None:
        loggers = plain(config)["logger"]
        tell_agent(folder, loggers)
        _say_unsent(folder, loggers)
    return folder


def _say_unsent(folder: Path, loggers: dict[str, dict]) -> None:
    """Loggers hear of a run while it is trained; of one that is found they can be told by a command."""
    unsent = [name for name in SENDABLE if name in loggers and not (folder / name).exists()]
    if unsent:
        flags = " ".join(f"--{name}" for name in unsent)
        command = f"{program_of('report')} {screen.place(folder)} {flags}"
        screen.say(f"not in {' and '.join(unsent)}: {command} sends it there")
