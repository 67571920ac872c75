"""Where a run's files are: a function of its configuration, never of the clock.

    <output>/<scenario>_<dataset>_<backbone>/<strategy>[_<capacity>]_<hash>/seed<seed>/

The hash is that of the words that name the run (`cl.configuration.identity`).

So runs that can be compared lie side by side, the seeds of one configuration lie in one folder, a repeated command
finds what it has finished, and all ranks of a run agree. This file needs no torch: a finished run answers at once.
"""

import os
import re
import tempfile
from pathlib import Path

from omegaconf import OmegaConf

from cl import versions
from cl.configuration.identity import config_hash
from cl.configuration.settings import checked
from cl.configuration.trust import check_trust
from cl.reporting import custom
from cl.reporting.reading import read_results


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


def finished_run(config) -> Path | None:
    """The folder of the run if it was finished before and is not to be overwritten, else None.

    A metric of the user that its results lack is added to them.
    """
    config = plain(config)
    folder = run_folder(config)
    if config["overwrite"] or not (folder / "results.json").is_file():
        return None
    print(f"finished before: {folder}{other_version(folder)}  (overwrite=true trains it again)")
    custom.add(folder, config["metrics"])
    return folder


def other_version(folder: Path) -> str:
    """What made the results in a folder, where that is not this version or commit; else nothing."""
    made = read_results(folder / "results.json")["versions"]
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
