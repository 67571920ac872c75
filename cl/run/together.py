"""Runs that differ in their seed alone, trained at once: their networks take each step together.

Each run is as if by itself: it has its own data, order of samples, memory, tests, checkpoints and files. Runs that
stand at different places wait for one another at the end of a stage.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from cl import signals
from cl.buffers.base import ReplayBuffer
from cl.buffers.native import NativeBuffer
from cl.build import locate, shared_options
from cl.data.rows import Rows
from cl.networks import lora
from cl.run import device as devices
from cl.run.experiment import parts
from cl.run.folder import plain
from cl.run.network import build_network, input_shape
from cl.run.part import Part
from cl.run.plan import make_plan
from cl.run.trainer import Trainer
from cl.strategies import stacked
from cl.strategies.stacked import Stacked

OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)  # see `Stacked`
# Options whose other values are not made for several networks in one step.
NEUTRAL = {
    "precision": "fp32", "compile": False, "clip_norm": None, "channels_last": False, "gradient_accumulation_steps": 1,
}  # fmt: skip
FAILURES = (Exception, signals.Stopped)


def why_not(config) -> str:
    """Why the seeds of a configuration (OmegaConf) have to be trained one after the other, in words; empty if not.

    Raises ValueError or OSError for a configuration with which no run can be made.
    """
    config = plain(config)
    plan = make_plan(config)
    name = f"strategy={config['strategy']['name']}"
    if not vars(type(plan.strategy)).get("stackable", False):
        return f"{name} has no step for several networks"
    for key, neutral in NEUTRAL.items():
        if config[key] != neutral:
            return f"{key}={str(config[key]).lower()} is for one network at a time"
    if config["average"]["name"] != "none":
        return f"average={config['average']['name']} is for one network at a time"
    if config["optimizer_state"] == "epoch":
        return "optimizer_state=epoch is for one network at a time"
    if plan.dataset.augment or any(config["mixing"].values()):
        return "augmentation draws random numbers for each seed by itself (dataset.augment=[] and no mixing)"
    if "wandb" in config["logger"]:
        return "logger=wandb follows one run at a time"
    shared = shared_options(config["backbone"], "backbone")
    if shared["freeze"] is not None or lora.options_of(shared["lora"]) is not None:
        return "backbone.freeze and backbone.lora train a part of the network"
    if locate(config["optimizer"], "optimizer") not in OPTIMIZERS:
        return f"optimizer={config['optimizer']['name']} may treat the weights of several networks as those of one"
    reason = stacked.why_not(build_network(plan), torch.zeros(2, *input_shape(plan.dataset, config["backbone"])))
    return f"backbone={config['backbone']['name']} {reason}" if reason else ""


def run_together(configs: Sequence) -> list[Path | BaseException]:
    """Train the runs of some configurations (OmegaConf) that differ in their seed alone; each one's folder, or error.

    One that fails does not stop the others.
    """
    ended: dict[int, Path | BaseException] = {}
    with ExitStack() as opened:
        _settings(plain(configs[0]), opened)
        runs = [parts(config) for config in configs]
        at: dict[int, Part] = {}

        def proceed(number: int, error: BaseException | None) -> None:
            at.pop(number, None)
            try:
                at[number] = next(runs[number]) if error is None else runs[number].throw(error)
            except StopIteration as end:
                ended[number] = end.value
            except FAILURES as failure:
                ended[number] = failure

        for number, run in enumerate(runs):
            opened.callback(run.close)
            proceed(number, None)
        for part in list(at.values())[1:]:
            part.trainer.recorder.progress.close()  # one bar for all
        while at:
            first = min(part.place for part in at.values())
            chosen = [number for number, part in at.items() if part.place == first]
            for number, error in zip(chosen, train_together([at[number] for number in chosen])):
                proceed(number, error)
    return [ended[number] for number in range(len(runs))]


def train_together(parts: Sequence[Part]) -> list[BaseException | None]:
    """Train parts that stand at the same place step by step; what stopped each of them, if anything did.

    A step in which some have other numbers of samples than others, such as at the end of an epoch, is made in groups.
    """
    trainers = [part.trainer for part in parts]
    stopped: list[BaseException | None] = [None] * len(parts)
    loops = [part.trainer.loop(part.samples, part.stage, part.steps) for part in parts]
    batches: dict[int, Rows] = {}
    stacks: dict[tuple[int, ...], Stacked] = {}

    def proceed(number: int) -> None:
        batches.pop(number, None)
        try:
            batches[number] = next(loops[number])
        except StopIteration:
            pass
        except FAILURES as failure:
            stopped[number] = failure

    for number, trainer in enumerate(trainers):
        trainer.beside = len(parts)
        proceed(number)
    steps = [_steps_taken(trainer.strategy.updater.optimizer) for trainer in trainers]
    opened = ExitStack()
    try:
        for trainer in trainers:
            _draw_in_host_memory(trainer.strategy.buffer, opened)
        while batches:
            draws = {number: trainers[number].strategy.recall() for number in batches}
            groups: dict[tuple, list[int]] = {}
            for number, batch in batches.items():
                alike = len(batch), *map(len, draws[number]), _rate(trainers[number]), steps[number]
                groups.setdefault(alike, []).append(number)
            stacks = _stacks(stacks, [tuple(group) for group in groups.values()], trainers)
            for group, stack in stacks.items():
                losses = stack.observe([batches[number] for number in group], [draws[number] for number in group])
                for number, loss in zip(group, losses.unbind()):
                    trainers[number].observed = loss
            for number in list(batches):
                proceed(number)
    except Exception as error:  # of all of them: each step is one
        stopped = [error if found is None else found for found in stopped]
    finally:
        for stack in stacks.values():
            stack.release()
        opened.close()
    return stopped


def _stacks(before: dict, groups: list[tuple[int, ...]], trainers: Sequence[Trainer]) -> dict[tuple, Stacked]:
    """A stack for each group; those of before where the groups are the same."""
    if list(before) == groups:
        return before
    for stack in before.values():
        stack.release()
    return {group: Stacked([trainers[number].strategy for number in group]) for group in groups}


def _draw_in_host_memory(buffer: ReplayBuffer | None, opened: ExitStack) -> None:
    """Until the end, draws stay where the records are: stacked there, those of all seeds take one copy to a GPU."""
    if isinstance(buffer, NativeBuffer):
        opened.callback(setattr, buffer, "device", buffer.device)
        buffer.device = torch.device("cpu")


def _rate(trainer: Trainer) -> float:
    return trainer.strategy.updater.optimizer.param_groups[0]["lr"]


def _steps_taken(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """What an optimizer has counted of its steps, which must be equal in a stack; nothing where it does not count."""
    return tuple(float(state[stacked.STEP]) for state in optimizer.state.values() if stacked.STEP in state)


def _settings(config: dict, opened: ExitStack) -> None:
    """Device and threads as each run sets them: no run takes them back while others go on."""
    plan = make_plan(config)
    opened.enter_context(devices.repeatable(devices.choose_device(config["device"], 0)))
    opened.enter_context(devices.threads(config["threads"], build_network(plan), 1))
