"""Callbacks: a user's own code at fixed places of a run, named in the configuration.

    python run.py +callbacks.timer._target_=my_callbacks.Timer +callbacks.timer.every=10 trust=[my_callbacks]

A callback is a class derived from `Callback`; its options are the arguments of its constructor. It overrides the hooks
that it needs. Callbacks do not know each other and are called in the order of the configuration. They may change the
numbers of a run, so they are part of what names it. A callback of every rank at every step was rejected as the default:
a hook that is not overridden costs nothing, and rank 0 alone calls them unless a class says otherwise.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cl.build import locate, options_of
from cl.step.passes import Passes
from cl.values import did_you_mean, is_plain


@dataclass(frozen=True)
class RunContext:
    """What a callback is told of its run. None of it is for changing, apart from what the network's hooks need."""

    config: dict  # a copy
    folder: Path  # of the run, where a callback may write files with names of its choice
    model: nn.Module
    device: torch.device
    rank: int
    ranks: int
    stages: list[list[int]]  # the tasks of each stage of training
    first_stage: int  # where training begins; above 0 in a run that is resumed
    first_step: int = 0  # of that stage, how many steps are done; above 0 in a run that is resumed within it


class Callback:
    """Does nothing: override what you need.

    Stages count from 0. A hook that raises ends the run with a line that names the callback.
    """

    all_ranks = False  # whether every rank calls it; otherwise rank 0 alone

    def on_run_start(self, context: RunContext) -> None:
        """Called once in each process, before training; after `load_state_dict` where the run is resumed."""

    def on_stage_start(self, stage: int, num_samples: int, steps: int) -> None:
        """Called before the first step of a stage, with its number of training samples and of optimizer steps.

        Not in a run that is resumed within the stage: there it was called before, and the state holds what came of it.
        """

    def on_step(self, step: int, loss: torch.Tensor) -> None:
        """Called after each optimizer step with its number in the stage, from 1, and this rank's loss on the device.

        `loss.item()` waits for the device: in many cases it is better called every so many steps only.
        """

    def on_stage_end(self, stage: int, row: list[float]) -> None:
        """Called after the test of a stage, with the accuracy (or error) on each task; then the state is saved."""

    def on_run_end(self, results: dict) -> None:
        """Called last, with the content of results.json, which is on disk; not called for a run found finished."""

    def state_dict(self) -> dict:
        """What the callback needs in a resumed run: tensors and plain Python values."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))
PLAIN = (type(None), bool, int, float, str, torch.Tensor)  # what a checkpoint takes, beside lists, tuples and dicts


class CallbackError(RuntimeError):
    """A callback has failed; every rank prints its own."""


class Callbacks:
    """The callbacks of one run, by name. Raises ValueError for a node that is no callback or has wrong options."""

    def __init__(self, nodes: dict[str, dict]):
        self.targets = {name: node["_target_"] for name, node in nodes.items()}
        self.all = {name: _build(name, node) for name, node in nodes.items()}
        self.called: dict[str, Callback] = {}  # by this rank
        self.passes = Passes()  # in which what they ask of the network does not count

    def run_start(self, context: RunContext) -> None:
        """Choose those that this rank calls."""
        self.called = {name: each for name, each in self.all.items() if each.all_ranks or context.rank == 0}
        self._each("on_run_start", context)

    def stage_start(self, stage: int, num_samples: int, steps: int) -> None:
        """Before the first step of a stage."""
        self._each("on_stage_start", stage, num_samples, steps)

    def step_hook(self) -> Callable[[int, torch.Tensor], None] | None:
        """What is to be called after each step; None where no callback asks for it."""
        asked = {name: each for name, each in self.called.items() if type(each).on_step is not Callback.on_step}
        if not asked:
            return None

        def on_step(step: int, loss: torch.Tensor) -> None:
            with self.passes.paused():
                for name, each in asked.items():
                    try:
                        each.on_step(step, loss)
                    except Exception as error:
                        raise self._error(name, "on_step", error) from error

        return on_step

    def stage_end(self, stage: int, row: list[float]) -> None:
        """After the test of a stage."""
        for name in self.called:
            self._guarded(name, "on_stage_end", stage, list(row))

    def run_end(self, results: dict) -> None:
        """After results.json."""
        for name in self.called:
            self._guarded(name, "on_run_end", copy.deepcopy(results))

    def state_dict(self) -> dict:
        """The states by name; raises CallbackError for what a checkpoint cannot hold."""
        states = {}
        for name, each in self.all.items():
            states[name] = self._guarded(name, "state_dict")
            if not is_plain(states[name], PLAIN):
                raise CallbackError(
                    f"callbacks.{name} ({self.targets[name]}): state_dict must hold tensors and plain Python values "
                    f"(numbers, text, None, lists, tuples, dicts), got {states[name]!r}"
                )
        return states

    def load_state_dict(self, states: dict) -> None:
        """Give each its state."""
        for name in self.all:
            self._guarded(name, "load_state_dict", states[name])

    def _each(self, hook: str, *arguments) -> None:
        for name in self.called:
            self._guarded(name, hook, *arguments)

    def _guarded(self, name: str, method: str, *arguments):
        try:
            with self.passes.paused():
                return getattr(self.all[name], method)(*arguments)
        except Exception as error:
            raise self._error(name, method, error) from error

    def _error(self, name: str, method: str, error: Exception) -> CallbackError:
        what = f"callbacks.{name} ({self.targets[name]})"
        return CallbackError(f"{what} failed in {method}: {type(error).__name__}: {error}")


def _build(name: str, node: dict) -> Callback:
    group, target = f"callbacks.{name}", node["_target_"]
    kind = locate(node, group)
    if not isinstance(kind, type) or not issubclass(kind, Callback):
        raise ValueError(f"{group}._target_={target} must be a class derived from cl.run.callbacks.Callback")
    for attribute in dir(kind):
        if attribute.startswith("on_") and attribute not in HOOKS:
            raise ValueError(
                f"{group} ({target}): there is no hook {attribute}{did_you_mean(attribute, HOOKS)}; valid: "
                f"{', '.join(HOOKS)}; another method must not begin with on_"
            )
    options = options_of(node, group)
    try:
        return kind(**options)
    except Exception as error:
        raise ValueError(f"{group} ({target}) cannot be made: {type(error).__name__}: {error}") from error
