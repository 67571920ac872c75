"""Where a run's files are: a function of its configuration, never of the clock.

    <output>/<scenario>_<dataset>_<backbone>/<strategy>[_<capacity>]_<hash>/seed<seed>/

The hash is that of the words that name the run (`cl.configuration.identity`).

So runs that can be compared lie side by side, the seeds of one configuration lie in one folder, a repeated command
finds what it has finished, and all ranks of a run agree. This file needs no torch: a finished run answers at once.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from cl import versions
from cl.configuration.identity import config_hash
from cl.configuration.settings import checked
from cl.configuration.trust import check_trust
from cl.distributed.ranks import world_size
from cl.reporting import custom, screen
from cl.reporting.metrics_file import changed_files
from cl.reporting.reading import read_results
from cl.run.lock import InUseError, locked
from cl.run.remains import remains, sweep

if TYPE_CHECKING:
    from cl.distributed.comm import Comm  # imports torch

FEATURES = ".features"  # in the output folder, what frozen parts of networks have made of pictures
MOST_RANKS = 257  # of unfinished runs with another number of ranks those with fewer are found


def plain(config) -> dict:
    """The configuration resolved to plain Python, with the keys outside the groups checked and converted.

    Raises ValueError for a value that was left open (`???`), for what `cl.configuration.settings` refuses, and for code
    that is not trusted: everything that is built comes through here before it is imported.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, for example {missing[0]}=...")
    found = checked(OmegaConf.to_container(config, resolve=True))
    check_trust(found)
    return found


def benchmark_name(config: dict) -> str:
    """What runs that can be compared have in common."""
    return "_".join(_word(config[group]["name"]) for group in ("scenario", "dataset", "backbone"))


def run_folder(config: dict) -> Path:
    """The folder of one run."""
    method = _word(config["strategy"]["name"])
    if config["strategy"]["memory"]:
        method += f"_{_word(config['buffer']['capacity'])}"
    return Path(config["output"]) / benchmark_name(config) / f"{method}_{config_hash(config)}" / f"seed{config['seed']}"


def begun_elsewhere(config: dict) -> str | None:
    """Which unfinished run differs from this one in the number of ranks alone, in words; None if this one has begun."""
    folder, ranks = run_folder(config), config["checkpoint"]["ranks"] or world_size(config)
    unfinished = folder.parent.parent.glob(f"*/{folder.name}/resume_*.pt")  # the names of 256 folders take 0.1 s
    if folder.exists() or not any(unfinished):
        return None
    for number in range(1, MOST_RANKS):
        other = run_folder(config | {"checkpoint": config["checkpoint"] | {"ranks": number}})
        if number != ranks and not (other / "results.json").exists() and any(other.glob("resume_*.pt")):
            return f"{other} has an unfinished run that {number} ranks began: checkpoint.ranks={number} goes on with it"
    return None


def finished_run(config, quiet: bool = False) -> Path | None:
    """The folder of the run if it was finished before and is not to be overwritten, else None; `quiet`: without a line.

    A metric of the user that its results lack is added to them. Raises DamagedError for results that are not those
    that the run wrote.
    """
    config = plain(config)
    folder = run_folder(config)
    if config["overwrite"] or not (folder / "results.json").is_file():
        return None
    found_finished(folder, config["metrics"], "overwrite=true trains it again", quiet)
    return folder


def found_finished(folder: Path, metrics: dict, again: str, quiet: bool = False) -> None:
    """Say that the run or merge in a folder is finished, add the metrics that it lacks, and remove what is left."""
    content = read_results(folder / "results.json")
    if "versions" not in content:
        raise ValueError(f"{folder / 'results.json'} is not a result of remerge: {again}")
    for path in changed_files(folder, content.get("files", {})):  # nothing is computed from these
        print(f"{path}: its rows are not those that were written; results.json is whole", file=sys.stderr)
    if not quiet:
        screen.say(f"finished before: {screen.place(folder)}{other_version(content)}  ({again})")
    if custom.missing(content, metrics):
        with locked(folder):
            custom.add(folder, metrics)
    if remains(folder, content.get("kind")):
        try:
            with locked(folder):
                sweep(folder, content.get("kind"))
        except (InUseError, OSError) as error:  # another command does it, or the results are kept where none can
            print(f"left as it is: {error}", file=sys.stderr)


@contextmanager
def alone(folder: Path, comm: "Comm") -> Iterator[None]:
    """A run or merge alone in its folder: rank 0 has the lock. What is left of processes that were killed goes.

    Every rank calls this, and each raises an error where the folder is in use or cannot be written.
    """
    with ExitStack() as stack:
        error = None
        if comm.is_main:
            try:
                check_writable(folder)
                stack.enter_context(locked(folder))
            except (ValueError, OSError) as refused:
                error = refused
        told = comm.broadcast(None if error is None else str(error))
        if error is not None:
            raise error
        if told is not None:
            raise InUseError(told)
        sweep(folder, finished=None)
        comm.gather(None)  # nobody writes before all have swept: their disks may be one
        yield


def other_version(results: dict) -> str:
    """What made some results, where that is not this version or commit; else nothing."""
    made = results["versions"]
    here = versions.this()
    if all(made.get(key) == here[key] for key in here):
        return ""
    return f", made with {versions.made_with(made)}; this is {versions.made_with(here)}"


def check_writable(folder: Path) -> None:
    """Raise OSError if nothing can be written below `folder`; leaves nothing behind, so it may be asked early."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(f"the output folder {folder} cannot be made: {existing} is a file; choose output=PATH")
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise OSError(f"cannot write to {existing}: {error.strerror}; choose output=PATH") from error


def _word(value) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-")
