"""Where the networks to merge come from: a run's folder, files, or a run that is trained for it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from merging.fusion import State


@dataclass
class Source:
    """Networks, their names, how many samples each was trained on, and the results of the run that made them."""

    names: list[str]
    states: list[State]
    num_samples: list[int | None]
    initial: State | None
    results: dict | None

    def add(self, name: str, state: State, num_samples: int) -> None:
        self.names.append(name)
        self.states.append(state)
        self.num_samples.append(num_samples)

    def to(self, device: torch.device) -> "Source":
        def moved(state: State) -> State:
            return {name: value.to(device) for name, value in state.items()}

        initial = None if self.initial is None else moved(self.initial)
        return replace(self, states=[moved(state) for state in self.states], initial=initial)


def from_run(folder: Path, config: dict) -> Source:
    """The networks after each task of a finished run on the benchmark of a configuration.

    Raises FileNotFoundError for a folder that holds no finished run, ValueError for a run on another benchmark.
    """
    if not (folder / "results.json").is_file():
        raise FileNotFoundError(f"run={folder} is not the folder of a finished run: there is no results.json in it")
    files = sorted(folder.glob("task_*.pt"))
    results = json.loads((folder / "results.json").read_text())
    states = [read(file, config) for file in files]
    return Source([str(file) for file in files], states, [None] * len(files), None, results)


def from_files(paths: list[str], initial: str | None, config: dict) -> Source:
    """Networks in files, and their common init if there is a file of it."""
    start = None if initial is None else read(Path(initial), config)
    return Source(list(paths), [read(Path(path), config) for path in paths], [None] * len(paths), start, None)


def read(path: Path, config: dict) -> State:
    """The state dict in a checkpoint of remerge.

    Raises ValueError for anything else, and for a network of another scenario or data set than the configuration's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content["model"]
        assert all(isinstance(value, torch.Tensor) for value in state.values())
    except Exception as error:  # torch has no common type for a file that is none of its own
        raise ValueError(f"{path} is not a checkpoint of remerge: {type(error).__name__}: {error}") from error
    for group in ("scenario", "dataset"):
        trained, wanted = content.get("config", config)[group]["name"], config[group]["name"]
        if trained != wanted:
            raise ValueError(f"{path} was trained with {group}={trained}, but this is {group}={wanted}")
    return state
