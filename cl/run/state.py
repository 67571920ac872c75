"""Everything of a run that has state, by name: what a checkpoint takes, and gives back.

A part registers once; the checkpoint knows none of them. Parts are alike on all ranks, or each rank has its own, or
they write files themselves, because they are large or lie outside Python.
"""

import random
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn


class Stateful(Protocol):
    """What has state: `state_dict` holds tensors and plain Python values only, and owns them or is copied at once."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Copied(Protocol):
    """A state in memory, which `write` may write into a file in another thread while its part goes on."""

    def write(self, path: Path) -> None: ...


class Stored(Protocol):
    """What writes its state of each rank into a file, and reads the files of all ranks that wrote one.

    `check` raises ValueError for files that `load` could not take, and changes nothing.
    """

    def copy(self) -> Copied: ...

    def check(self, *paths: Path) -> None: ...

    def load(self, *paths: Path) -> None: ...


class StateTree:
    """The parts with state by name, in the order in which they are registered."""

    def __init__(self) -> None:
        self.shared: dict[str, Stateful] = {}
        self.own: dict[str, Stateful] = {}
        self.stored: dict[str, Stored] = {}

    def register(self, name: str, part: Stateful, own: bool = False) -> None:
        """Add a part; `own`: its state differs from rank to rank."""
        self._check_new(name)
        (self.own if own else self.shared)[name] = part

    def register_stored(self, name: str, part: Stored) -> None:
        """Add a part that writes its own files."""
        self._check_new(name)
        self.stored[name] = part

    def shared_state(self) -> dict:
        """The states that all ranks have alike."""
        return {name: part.state_dict() for name, part in self.shared.items()}

    def own_state(self) -> dict:
        """The states of this rank."""
        return {name: part.state_dict() for name, part in self.own.items()}

    def load(self, shared: dict, own: list[dict], rank: int = 0, ranks: int = 1) -> None:
        """Give every part its state; `own`: those of the ranks that saved, in order of rank.

        If these were not as many as there are now, a part of a rank begins again; one that counts something (`adopt`)
        is given what all of them had. Raises ValueError for names that are not those of the parts.
        """
        _check_names(shared, self.shared)
        for name, part in self.shared.items():
            part.load_state_dict(shared[name])
        for state in own:
            _check_names(state, self.own)
        for name, part in self.own.items():
            if len(own) == ranks:
                part.load_state_dict(own[rank][name])
            elif hasattr(part, "adopt"):
                part.adopt([state[name] for state in own], rank)

    def _check_new(self, name: str) -> None:
        assert name not in {*self.shared, *self.own, *self.stored}, f"{name} is registered twice"


def _check_names(state: dict, parts: dict) -> None:
    if state.keys() != parts.keys():
        raise ValueError(
            f"the checkpoint holds the state of {', '.join(state) or 'nothing'}, and this run has "
            f"{', '.join(parts) or 'nothing'}: it was written by another version, overwrite=true begins again"
        )


def copied(state):
    """A state with copies of its tensors, on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(copied, state))
    return state


class Statistics:
    """A network's buffers, such as batch-norm statistics: within a stage each rank has those of its own batches."""

    def __init__(self, model: nn.Module):
        self.model = model

    def state_dict(self) -> dict:
        return {name: buffer.detach().cpu().clone() for name, buffer in self.model.named_buffers()}

    def load_state_dict(self, state: dict) -> None:
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state[name])


class Generators:
    """The generators of the process: torch's on the CPU and the device, numpy's and Python's."""

    def __init__(self, device: torch.device):
        self.device = device

    def state_dict(self) -> dict:
        kind, keys, *rest = np.random.get_state()
        state = {"torch": torch.get_rng_state(), "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest]}
        if self.device.type in ("cuda", "mps"):
            state["device"] = getattr(torch, self.device.type).get_rng_state()
        version, internal, gauss = random.getstate()
        return state | {"python": [version, list(internal), gauss]}

    def load_state_dict(self, state: dict) -> None:
        torch.set_rng_state(state["torch"].cpu())
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        if "device" in state and self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).set_rng_state(state["device"].cpu())
