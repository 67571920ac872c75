"""The networks to merge: read from the folder of a run, or from files."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cl.checksums import DamagedError
from cl.configuration.identity import is_set
from cl.networks import lora, weights
from cl.networks.frozen import frozen_state
from cl.networks.pretrained import is_file
from cl.reporting.reading import read_results
from cl.run import checkpoint
from cl.run.network import STATISTICS
from cl.run.session import Session
from merging.fusion import State

# Options of a scenario or data set that change neither the samples nor their tasks.
NO_MATTER = ("_target_", "name", "concatenate", "augment", "root", "cache", "download", "stream")


@dataclass
class Source:
    """Networks in files, the training tasks of each (None: unknown), and the results of their run.

    `states`: their state dicts in order, on the meta device (shapes without values) if they were read for a check.
    `initial`: the common init, or None. `num_samples`: number of training samples of each network.
    """

    files: list[Path] = field(default_factory=list)
    tasks: list[list[int] | None] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    num_samples: list[int] = field(default_factory=list)
    initial: State | None = None
    results: dict | None = None
    sizes: list[int] = field(default_factory=list)  # bytes that each network adds to those before
    shared_bytes: int = 0  # of the weights to which all of them are adapters

    @property
    def names(self) -> list[str]:
        return [str(file) for file in self.files]

    def to(self, device: torch.device) -> "Source":
        initial = None if self.initial is None else moved(self.initial, device)
        return replace(self, states=[moved(state, device) for state in self.states], initial=initial)


class Reader:
    """Reads networks that must match a configuration's architecture, scenario and data set."""

    def __init__(self, session: Session, free_widths: bool = False):
        """`free_widths`: the widths of layers may differ from those of the configured network."""
        scenario, dataset = session.plan.scenario, session.plan.dataset
        self.config, self.num_tasks, self.free_widths = session.config, scenario.num_tasks, free_widths
        self.session, self._initial = session, {}
        self.own = moved(session.model.state_dict(), torch.device("cpu"))
        self.frozen = moved(frozen_state(session.model), torch.device("cpu"))
        # Whether the tasks depend on the seed. Class scenarios depend on it only through a random order of classes.
        self.seed_matters = scenario.split_by_seed or dataset.validation > 0

    def read(self, path: Path, what: str | None = None) -> tuple[State, dict]:
        """A network's state dict, and the other entries of its file; {} for files that remerge did not write.

        `what` names the file in errors. Raises FileNotFoundError or ValueError.
        """
        what = what or str(path)
        found, about = weights.read(path, what)
        about = about if _is_ours(about) else {}
        if about:
            self.check_alike(what, about["config"])
        if "lora" in about:
            base = moved(self.initial_of(about["config"]), torch.device("cpu"))
            about = about | {"adapter_bytes": _size(found), "base_bytes": _size(base, without=found)}
            found = lora.folded(found, about["lora"], base, what)
        state = weights.fit(found, self.own, what, free_widths=self.free_widths)
        for name, value in self.frozen.items():
            if not torch.equal(state[name], value):
                raise ValueError(
                    f"{what} has another {name} than the frozen part of this network (backbone.freeze): give the same "
                    "pretrained weights and seed, or leave out backbone.freeze"
                )
        return state, about

    def initial_of(self, trained: dict) -> State:
        """The weights with which a run with this configuration began; adapters are to these."""
        # With the current class of the network: runs of an earlier version know it under another name.
        backbone = trained["backbone"] | {"_target_": self.config["backbone"]["_target_"]}
        key = json.dumps([trained.get("seed"), backbone], sort_keys=True)
        if key not in self._initial:
            self._initial[key] = self.session.initial_weights(config=trained | {"backbone": backbone})
        return self._initial[key]

    def tasks(self, what: str, about: dict) -> list[int] | None:
        """The tasks that a network was trained on according to its file, None if the file does not name them."""
        found = about.get("tasks")
        if found and not 0 <= min(found) <= max(found) < self.num_tasks:
            raise ValueError(
                f"{what} was trained on task {max(found) + 1}, but scenario={self.config['scenario']['name']} has "
                f"{self.num_tasks} tasks"
            )
        return found

    def check_alike(self, what: str, trained: dict) -> None:
        """Raise ValueError for a network that was trained on other samples or tasks than this configuration's."""
        for group in ("scenario", "dataset"):
            theirs, ours = trained[group], self.config[group]
            if theirs["name"] != ours["name"]:
                raise ValueError(
                    f"{what} was trained with {group}={theirs['name']}, but this is {group}={ours['name']}"
                )
            for key in ours:
                if key not in NO_MATTER and theirs.get(key, ours[key]) != ours[key]:
                    raise ValueError(
                        f"{what} was trained with {group}.{key}={_word(theirs[key])}, but this is "
                        f"{group}.{key}={_word(ours[key])}"
                    )
        theirs, ours = (_of_input(config) for config in (trained, self.config))
        if theirs != ours:
            raise ValueError(
                f"{what} was trained with backbone.pretrained={_word(theirs)}, whose mean and std normalise its input, "
                f"but this is backbone.pretrained={_word(ours)}: give the same, or dataset.mean and dataset.std"
            )
        theirs, ours = trained.get("seed", self.config["seed"]), self.config["seed"]
        if self.seed_matters and theirs != ours:
            raise ValueError(
                f"{what} was trained with seed={theirs}, but this is seed={ours}: which samples belong to a task of "
                f"scenario={self.config['scenario']['name']} depends on it"
            )

    def of_run(self, folder: Path, look: bool = False) -> Source:
        """The networks after each stage of a finished run; `look`: shapes only, without values.

        Raises FileNotFoundError for a folder without a finished run, ValueError for a run on another benchmark.
        """
        if not (folder / "results.json").is_file():
            raise FileNotFoundError(f"run={folder} is not the folder of a finished run: there is no results.json in it")
        try:
            results = read_results(folder / "results.json", f"run={folder}: results.json")
            kind, trained = results["kind"], results["config"]
            if not _is_ours(results):
                raise TypeError(trained)
        except DamagedError:
            raise
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"run={folder}: results.json is not a result of remerge: give the folder of another run"
            ) from error
        if kind != "run":
            raise ValueError(
                f"run={folder} is the folder of a {kind}, expected that of a run of run.py; its networks can be given "
                "as checkpoints=[FILE]"
            )
        self.check_alike(f"run={folder}", trained)
        files = checkpoint.task_files(folder)
        if list(files) != list(range(max(1, len(files)))):
            numbers = ", ".join(map(str, files)) or "none"
            raise ValueError(
                f"run={folder} lacks networks: expected task_00.pt, task_01.pt ... without a gap, found {numbers}"
            )
        source = Source(results=results)
        for stage, file in files.items():
            state, about = self.read(file)
            if about.get("stage", stage) != stage:
                raise ValueError(
                    f"{file} holds the network after stage {about['stage']}, but its name says {stage}: restore the "
                    "files of the run"
                )
            self._add(source, file, state, about, self.tasks(str(file), about) or [stage], look)
        return source

    def of_files(self, paths: list, initial: str | None, look: bool = False) -> Source:
        """The networks in files, and their common init from the file `initial`; `look`: shapes only, without values."""
        if not paths:
            raise ValueError("checkpoints=[] names no file: give one or more, or leave it out")
        source = Source()
        for path in map(Path, map(str, paths)):
            state, about = self.read(path)
            self._add(source, path, state, about, self.tasks(str(path), about), look)
        if initial is not None:
            source.initial, _ = self.read(Path(initial), f"initial={initial}")
        return source

    def _add(
        self, source: Source, file: Path, state: State, about: dict, tasks: list[int] | None, look: bool
    ) -> None:  # fmt: skip
        source.sizes.append(about.get("adapter_bytes", _size(state, without=self.frozen)))
        source.shared_bytes = max(source.shared_bytes, about.get("base_bytes", _size(self.frozen)))
        source.files.append(file)
        source.tasks.append(tasks)
        source.states.append(moved(state, torch.device("meta")) if look else state)


def _size(state: State, without=()) -> int:
    return sum(value.nbytes for name, value in state.items() if name not in without)


def moved(state: State, device: torch.device) -> State:
    """The state dict on a device."""
    return {name: value.to(device) for name, value in state.items()}


def _of_input(config: dict) -> bool | str | None:
    """The pretrained weights that decide how pictures are normalised; None where the data set does."""
    backbone, node = config.get("backbone", {}), config["dataset"]
    ours = str(backbone.get("_target_")).startswith("cl.networks.")
    word = backbone.get("pretrained") if ours else None
    by_dataset = backbone.get("input_statistics") == "dataset" or any(is_set("dataset", node, k) for k in STATISTICS)
    return None if word is None or by_dataset or is_file(word) else word


def _is_ours(about: dict) -> bool:
    config = about.get("config")
    return isinstance(config, dict) and all(
        isinstance(config.get(group), dict) and "name" in config[group] for group in ("scenario", "dataset")
    )


def _word(value) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
