"""Where a run's files are: a function of its configuration, never of the clock.

    <output>/<scenario>_<dataset>_<backbone>/<strategy>[_<capacity>]_<hash>/seed<seed>/

So runs that can be compared lie side by side, the seeds of one configuration lie in one folder, a repeated command
finds what it has finished, and all ranks of a run agree. This file needs no torch: a finished run answers at once.
"""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from omegaconf import OmegaConf

from cl.ranks import world_size
from cl.settings import checked

# What does not change a run's numbers does not change its folder either.
NOT_IDENTITY = (
    "seed", "output", "overwrite", "pictures", "progress", "debug", "logger", "log_interval", "launcher",
)  # fmt: skip


def plain(config) -> dict:
    """The configuration resolved to plain Python, with the keys outside the groups checked and converted.

    Raises ValueError for a value that was left open (`???`) and for what `cl.settings` refuses.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, for example {missing[0]}=...")
    return checked(OmegaConf.to_container(config, resolve=True))


def identity(config: dict, ranks: int | None = None) -> dict:
    """The part of a configuration that decides a run's numbers; a buffer that is not used is no part of it.

    `ranks`: with how many it was run; None: with those that are there, or that its launcher will start.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    kept["ranks"] = world_size(config) if ranks is None else ranks
    # Workers decode alike however many there are; other loaders give other pixels.
    if kept.pop("loader")["name"] != "workers":
        kept["loader"] = config["loader"]["name"]
    if not config["strategy"]["memory"]:
        kept.pop("buffer")
    else:
        kept["buffer"] = {key: value for key, value in kept["buffer"].items() if key != "timeout"}
    return kept


def config_hash(config: dict) -> str:
    """Eight hex digits that name a configuration without its seed."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]


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
    """The folder of the run if it was finished before and is not to be overwritten, else None."""
    config = plain(config)
    folder = run_folder(config)
    if config["overwrite"] or not (folder / "results.json").is_file():
        return None
    print(f"finished before: {folder}  (overwrite=true trains it anew)")
    return folder


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
