"""A configuration from its words, as the command line composes it, and what the files in conf/ ask for by `${...}`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cl.configuration import arguments
from cl.configuration.place import CONF
from cl.configuration.settings import RUN_GROUPS


def composed(command: str, words: Sequence[str], folder: str | Path | None = None) -> DictConfig:
    """The configuration of run.py or merge.py (`command`: run or merge) with these overrides.

    `folder`: one of further options, as --config-dir names it. Raises the errors of Hydra.
    """
    register_resolvers()
    hydra = GlobalHydra.instance()
    outer = hydra.hydra  # that of the command line, if this runs within one
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            own = [] if folder is None else [f"hydra.searchpath=['{Path(folder).resolve()}']"]
            return compose(command, overrides=[*words, *own])
    finally:
        hydra.hydra = outer


def words_of_job(of: str = "task") -> list[str]:
    """The overrides of the job that Hydra runs, as they were given; `of`: task, or hydra for those of Hydra itself."""
    # Read as they are: a word such as epochs=${seed} is an interpolation of the job's configuration, not of Hydra's.
    return OmegaConf.to_container(HydraConfig.get().overrides, resolve=False)[of]


def register_resolvers() -> None:
    """Make `${published:...}`, `${groups:...}` and `${program:...}` known."""
    OmegaConf.register_new_resolver("published", published, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
    OmegaConf.register_new_resolver("program", program, replace=True)


def groups(command: str) -> str:
    """`${groups:run}`: the groups that have an effect on a command with their options, for its help."""
    names = ("experiment", *RUN_GROUPS, *(("launcher",) if command == "run" else ("fusion", "protocol", "study")))
    return "\n".join(f"{name}: {', '.join(arguments.options(name))}" for name in names)


def program(command: str) -> str:
    """`${program:run}`: how a command is called: by its script in a checkout, by its name once it is installed."""
    if Path(sys.argv[0]).name.startswith("remerge-"):
        return f"remerge-{command}"
    return "python -m cl.report" if command == "report" else f"python {command}.py"


def published(name: str, *, _root_) -> float:
    """`${published:lr}`: a paper's value for the capacity at hand, from the table that an experiment brings."""
    table, capacity = _root_.published, str(_root_.buffer.capacity)
    if capacity not in table:
        raise ValueError(
            f"no published {name} for buffer.capacity={capacity}; there is one for {', '.join(table)}: "
            "choose one of them, or give the strategy's and the optimizer's options yourself"
        )
    return table[capacity][name]
