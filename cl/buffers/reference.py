"""The replay memory in pure Python, for one process: what every other buffer has to agree with.

Records lie in one tensor per field on the training device. A draw is made and copied in `request`, so nothing that
happens until `receive` can change it; that time is what the caller waits, and it is counted.
"""

import time
from collections import deque
from pathlib import Path

import torch

from cl.atomic import save_tensors
from cl.buffers.base import (
    Field,
    Records,
    ReplayBuffer,
    check_columns,
    check_draw_size,
    check_update,
)
from cl.buffers.insertion import InsertionPolicy
from cl.buffers.sampling import SamplingPolicy
from cl.buffers.settings import check_policies
from cl.distributed.comm import Comm
from cl.networks import weights
from cl.seeding import Uniforms


class ReferenceBuffer(ReplayBuffer):
    """`capacity` records with the given fields, of which `y` (int64, below `num_classes`) names the class.

    `insertion` and `sampling` name the policies, see `cl.buffers.insertion` and `cl.buffers.sampling`; `options` are
    those of the policies. Random numbers depend on `seed` alone. Raises ValueError for policies and capacities that
    make no sense.
    """

    def __init__(
        self,
        capacity: int,
        insertion: str,
        sampling: str,
        fields: list[Field],
        num_classes: int,
        seed: int,
        device: torch.device,
        comm: Comm,
        timeout: float = 300.0,  # for other ranks, of which there are none
        **options,  # of the policies
    ):
        if comm.size > 1:
            raise ValueError(f"buffer=reference serves one process, but there are {comm.size} ranks; use buffer=native")
        insertion_options, sampling_options = check_policies(insertion, sampling, options)
        if capacity < 1:
            raise ValueError(f"buffer.capacity must be at least 1 record, got {capacity}")
        # The streams keep the names that they have always had: these decide the numbers.
        self.insertion = InsertionPolicy.known[insertion](
            capacity, num_classes, Uniforms(seed, "admission"), **insertion_options
        )
        self.sampling, self.uniforms = SamplingPolicy.known[sampling](**sampling_options), Uniforms(seed, "draw")
        self.policies = {"insertion": insertion, "sampling": sampling, **insertion_options, **sampling_options}
        self.capacity, self.num_classes, self.device = capacity, num_classes, device
        self.fields = fields
        self.columns = {f.name: torch.zeros(capacity, *f.shape, dtype=f.dtype, device=device) for f in fields}
        self.labels = [0] * capacity  # the field y once more, on the host, for the policies
        self.ids = [-1] * capacity  # of the record in each slot: how many were offered before it
        self.slots: dict[int, int] = {}  # by id
        self.offered = 0
        self.queue: deque[Records] = deque()

    def add(self, records: dict[str, torch.Tensor]) -> None:
        labels = self._check(records)
        placed = self.insertion.offer(labels)
        first = self.offered
        self.offered += len(labels)
        if not placed:
            return
        for slot, row in placed.items():
            self.labels[slot] = labels[row]
            self.slots.pop(self.ids[slot], None)
            self.ids[slot] = first + row
            self.slots[first + row] = slot
        slots = torch.tensor(list(placed), device=self.device)
        rows = torch.tensor(list(placed.values()), device=self.device)
        for name, column in self.columns.items():
            column.index_copy_(0, slots, records[name].detach().index_select(0, rows))

    def update(self, name: str, ids: torch.Tensor, values: torch.Tensor) -> None:
        check_update(self.fields, name, ids, values)
        for record, value in zip(ids.tolist(), values.detach()):
            if record in self.slots:
                self.columns[name][self.slots[record]] = value

    def request(self, n: int) -> None:
        started = time.perf_counter()
        check_draw_size(n)
        stored = self.insertion.stored
        drawn = self.sampling.draw(stored, self.labels, n, self.uniforms)
        slots = torch.tensor(drawn, dtype=torch.int64, device=self.device)
        weights = self.sampling.weights(stored, self.labels, drawn)
        weight = torch.tensor(weights, dtype=torch.float32, device=self.device)
        columns = {name: column.index_select(0, slots) for name, column in self.columns.items()}
        ids = torch.tensor([self.ids[slot] for slot in drawn], dtype=torch.int64)
        self.queue.append(Records(columns, weight, ids))
        self.wait_seconds += time.perf_counter() - started

    def receive(self) -> Records:
        if not self.queue:
            raise ValueError("nothing to receive: request a draw first")
        return self.queue.popleft()

    @property
    def pending(self) -> int:
        return len(self.queue)

    def __len__(self) -> int:
        return len(self.insertion.stored)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    def copy(self) -> "ReferenceCopy":
        return ReferenceCopy(
            {
                "about": self._about(),
                "insertion": self.insertion.state(),
                "draw": self.uniforms.state(),
                "columns": on_host(self.columns),
                "ids": list(self.ids),
                "offered": self.offered,
                # Clones: who receives a draw may change it.
                "pending": [(on_host(draw.columns), draw.weight.cpu(), draw.ids.clone()) for draw in self.queue],
                "wait_seconds": self.wait_seconds,
            }
        )

    def check(self, *paths: Path) -> None:
        self._read(*paths)

    def _read(self, *paths: Path) -> dict:
        if len(paths) != 1:
            raise ValueError(f"buffer=reference serves one process, but {len(paths)} saved shards were given")
        (path,) = paths
        try:
            state = weights.load(path, device=self.device)
            about = dict(state)["about"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a replay buffer that was saved, or is damaged") from error
        if about != self._about():
            raise ValueError(f"{path} holds another buffer: expected {self._about()}, got {about}")
        return state

    def load(self, *paths: Path) -> None:
        state = self._read(*paths)
        self.insertion.restore(state["insertion"])
        self.uniforms.restore(state["draw"])
        self.columns = state["columns"]
        self.labels = self.columns["y"].tolist()
        self.ids, self.offered = list(state["ids"]), state["offered"]
        self.slots = {record: slot for slot, record in enumerate(self.ids) if record >= 0}
        self.queue = deque(Records(*parts) for parts in state["pending"])
        self.wait_seconds = state["wait_seconds"]

    def _about(self) -> dict:
        """What has to be equal for a saved buffer to be this one."""
        fields = [f"{field.name} {tuple(field.shape)} {field.dtype}" for field in self.fields]
        return {"policies": self.policies, "capacity": self.capacity, "num_classes": self.num_classes, "fields": fields}

    def close(self) -> None:
        self.columns, self.queue = {}, deque()

    def abandon(self) -> None:
        self.close()

    def _check(self, records: dict[str, torch.Tensor]) -> list[int]:
        """The labels, or ValueError."""
        check_columns(self.fields, records)
        labels = records["y"].tolist()
        if labels and not 0 <= min(labels) <= max(labels) < self.num_classes:
            raise ValueError(f"labels must lie in [0, {self.num_classes}), got {min(labels)} to {max(labels)}")
        return labels


class ReferenceCopy:
    """The state of a buffer as it was when it was copied."""

    def __init__(self, state: dict):
        self.state = state

    def write(self, path: Path) -> None:
        state, self.state = self.state, None
        save_tensors(path, state)


def on_host(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of tensors in the memory of the host."""
    return {name: column.to("cpu", copy=True) for name, column in columns.items()}
