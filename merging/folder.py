"""Where a merge's files are: beside the runs on the same benchmark. This file needs no torch."""

from pathlib import Path

from cl.configuration.identity import config_hash
from cl.run.folder import benchmark_name


def merge_folder(config: dict) -> Path:
    """The folder of a merge, which the configuration determines."""
    method = f"{config['fusion']['name']}_{config_hash(config)}"
    return Path(config["output"]) / benchmark_name(config) / method / f"seed{config['seed']}"
