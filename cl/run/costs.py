"""What a run or a merge costs: compute in passes and FLOPs, memory in bytes that persist between tasks.

Both are computed from what was counted and what is stored, not from the names of methods, so that a method of a user is
counted as ours are. docs/metrics.md says what counts as what.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from cl.networks.flops import flops
from cl.networks.frozen import frozen_state
from cl.run.plan import Plan
from cl.run.session import Session
from cl.scenarios.base import Tasks
from cl.step.passes import COLUMNS

Counts = dict[str, int]  # the columns of `cl.step.passes`
NETWORKS = ("network", "average")  # parts of a run's state that are networks, where it has them


def summed(parts: Iterable[Counts]) -> Counts:
    """The counts of several parts together."""
    parts = list(parts)
    return {column: sum(part[column] for part in parts) for column in COLUMNS}


def training_passes(counts: Counts) -> float:
    """Passes of a training sample, labelled or not: a backward pass costs about two forward passes."""
    forward, backward = both(counts)
    return (forward + 2 * backward) / 3


def both(counts: Counts) -> tuple[int, int]:
    """Forward and backward passes, labelled and unlabelled together."""
    forward, backward, unlabelled_forward, unlabelled_backward = (counts[column] for column in COLUMNS)
    return forward + unlabelled_forward, backward + unlabelled_backward


def compute(session: Session, counts: Counts) -> dict:
    """The entries of results.json on compute."""
    forward, backward = both(counts)
    of_forward, of_backward = flops_of(session)
    once = 0 if session.features is None else session.features.flops
    return {
        **counts,
        "passes": training_passes(counts),
        "flops": once + forward * of_forward + backward * of_backward,
    }


def flops_of(session: Session) -> tuple[int, int]:
    """FLOPs of a sample's forward and backward pass through the network of a run."""
    dataset = session.plan.dataset
    empty = torch.zeros(1, *dataset.sample_shape, dtype=dataset.sample_dtype, device=session.device)
    with session.passes.paused():
        return flops(session.model, session.transform.test(empty))


def persistent(networks: int, start: int, samples: int, statistics: int) -> dict:
    """The entries of results.json on memory, from bytes."""
    parts = {"networks": networks, "start": start, "samples": samples, "statistics": statistics}
    return {"persistent": parts, "persistent_bytes": sum(parts.values())}


def of_run(session: Session, networks: Sequence[nn.Module], tasks: Tasks, buffer_bytes: int, more=()) -> dict:
    """What a run would have to keep after its last task if another one came, with the optimizer's state beside it.

    `buffer_bytes`: of the replay memory at full capacity, on all ranks together. `more`: statistics beside those of the
    strategy. What all ranks have alike is counted once.
    """
    plan, strategy = session.plan, session.plan.strategy
    repeated = (len(networks) - 1) * size(frozen_state(session.model))  # a frozen part is alike in all of them
    own = [column for rows in strategy.stored_samples() for column in rows.columns.values()]
    stored = buffer_bytes + size(own) + tasks.num_training(trained_again(plan)) * row_bytes(plan)
    return {
        **persistent(
            networks=sum(size(network.state_dict()) for network in networks) - repeated,
            start=0,
            samples=stored,
            statistics=size([strategy.state_dict(), more], without=own),
        ),
        "optimizer_bytes": size(session.updater.state_dict()),
    }


def trained_again(plan: Plan) -> list[int]:
    """The tasks whose data all have to be there again if another task comes, as with joint training."""
    new = plan.scenario.num_tasks
    stages = plan.strategy.curriculum(new + 1, plan.scenario.concatenate)
    first = next((number for number, tasks in enumerate(stages) if new in tasks), len(stages))
    return sorted({task for tasks in stages[first:] for task in tasks} - {new})


def row_bytes(plan: Plan) -> int:
    """Bytes of a stored sample: pixels as stored, label, task, targets."""
    targets = sum(math.prod(shape) for shape in plan.scenario.targets.values()) * torch.float32.itemsize
    return pixel_bytes(plan) + 2 * torch.int64.itemsize + targets


def pixel_bytes(plan: Plan) -> int:
    """Bytes of a stored picture."""
    return math.prod(plan.dataset.sample_shape) * plan.dataset.sample_dtype.itemsize


def size(content, without=()) -> int:
    """Bytes of all tensors in nested dicts, lists and tuples, each once; but for the tensors in `without`."""
    left_out = {_place(tensor) for tensor in _tensors(without)}
    places = {_place(tensor): tensor.nbytes for tensor in _tensors(content)}
    return sum(nbytes for place, nbytes in places.items() if place not in left_out)


def _place(tensor: torch.Tensor) -> tuple:
    return tensor.data_ptr(), tensor.nbytes


def _tensors(content) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)
