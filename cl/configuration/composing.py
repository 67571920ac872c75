"""A configuration from its words, as the command line composes it, and what the files in conf/ ask for by `${...}`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cl.configuration import arguments, place
from cl.configuration.place import CONF
from cl.configuration.settings import RUN_GROUPS

RECIPE = "timm"  # of a network that has none


def composed(command: str, words: Sequence[str], folder: str | Path | None = None) -> DictConfig:
    """The configuration of run.py or merge.py (`command`: run or merge) with these overrides.

    `folder`: one of further options, as --config-dir names it. Raises the errors of Hydra, and of `use_own`.
    """
    register_resolvers()
    if folder is not None:
        use_own([folder])
    hydra = GlobalHydra.instance()
    outer = hydra.hydra  # that of the command line, if this runs within one
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            own = [] if folder is None else [f"hydra.searchpath=['{Path(folder).resolve()}']"]
            return compose(command, overrides=[*map(arguments.respelled, words), *own])
    finally:
        hydra.hydra = outer


def use_own(folders: Iterable[str | Path]) -> None:
    """Make folders of the user's own options known; raises ValueError for one that hides behind ours.

    A network of the user without a recipe gets that of any model of timm: plain SGD with a constant learning rate.
    """
    for folder in folders:
        place.use(folder)
        for path in (Path(folder) / "backbone").glob("*.yaml"):
            for group in ("optimizer/recipe", "schedule/recipe"):
                _stored(group).pop(f"{path.stem}.yaml", None)  # Hydra would check a file of this name against it
                if place.file_of(group, path.stem) is None:
                    node = {"defaults": [f"/{group}/{RECIPE}@_here_"]}
                    ConfigStore.instance().store(name=path.stem, group=group, node=node, provider="remerge")


def _stored(group: str) -> dict:
    """What Hydra's store has of a group."""
    found = ConfigStore.instance().repo
    for name in group.split("/"):
        found = found.get(name, {})
    return found


def own_folders(overrides: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The folders of further options that a command line names, by --config-dir or hydra.searchpath."""
    folders = []
    for number, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(value if equals else flags[number + 1])
    for word in overrides:
        if word.startswith("hydra.searchpath="):
            folders += [str(path).removeprefix("file://") for path in _listed(word)]
    return [folder for folder in folders if Path(folder).is_dir()]  # Hydra tells of others


def _listed(word: str) -> list:
    try:
        value = OverridesParser.create().parse_override(word).value()
    except Exception:  # Hydra tells
        return []
    return value if isinstance(value, list) else [value]


def folders_of_job() -> list[str]:
    """The folders of further options of the job that Hydra runs, in whichever process."""
    sources = HydraConfig.get().runtime.config_sources
    own = [source.path for source in sources if source.schema == "file" and Path(source.path) != CONF]
    return [folder for folder in own if Path(folder).is_dir()]


def words_of_job(of: str = "task") -> list[str]:
    """The overrides of the job that Hydra runs, as they were given; `of`: task, or hydra for those of Hydra itself."""
    # Read as they are: a word such as epochs=${seed} is an interpolation of the job's configuration, not of Hydra's.
    return OmegaConf.to_container(HydraConfig.get().overrides, resolve=False)[of]


def register_resolvers() -> None:
    """Make `${published:...}`, `${groups:...}` and `${program:...}` known."""
    OmegaConf.register_new_resolver("published", published, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
    OmegaConf.register_new_resolver("program", place.program, replace=True)


def groups(command: str) -> str:
    """`${groups:run}`: the groups that have an effect on a command with their options, for its help."""
    names = ("experiment", *RUN_GROUPS, *(("launcher",) if command == "run" else ("fusion", "protocol", "study")))
    return "\n".join(f"{name}: {', '.join(arguments.options(name))}" for name in names)


def published(name: str, *, _root_) -> float:
    """`${published:lr}`: a paper's value for the capacity at hand, from the table that an experiment brings."""
    table, capacity = _root_.published, str(_root_.buffer.capacity)
    if capacity not in table:
        raise ValueError(
            f"no published {name} for buffer.capacity={capacity}; there is one for {', '.join(table)}: "
            "choose one of them, or give the strategy's and the optimizer's options yourself"
        )
    return table[capacity][name]
