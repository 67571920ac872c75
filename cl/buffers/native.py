"""The replay memory in C++, one over all ranks: native/include/replay.h says what it does and what it costs.

This file turns tensors into pointers, and `cl.buffers.leases` the memory of draws into tensors.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from cl.buffers.base import Field, Records, ReplayBuffer, check_columns, check_draw_size, check_update
from cl.buffers.insertion import InsertionPolicy
from cl.buffers.leases import Leases
from cl.buffers.library import check, check_both_sides, ffi, lib, raise_error, text
from cl.buffers.sampling import SamplingPolicy
from cl.buffers.settings import check_policies
from cl.buffers.transfers import Transfers
from cl.distributed.comm import Comm
from cl.distributed.verdict import REPLAY
from cl.seeding import derive


class NativeBuffer(ReplayBuffer):
    """`capacity` records over all ranks of `comm`, each of which calls every method in the same order.

    `fields` have a `y` (int64, below `num_classes`) that names the class. `insertion` and `sampling` name the policies
    (docs/replay_buffer.md), `options` are those of the policies. `timeout`: seconds to wait for another rank. Messages
    without `comm.token` are dropped; where all ranks are on one machine the buffer listens there alone. Raises
    ValueError for policies and capacities that make no sense, PeerError for a rank that is lost.
    """

    serves_ranks = True

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
        timeout: float = 300.0,
        **options,  # of the policies
    ):
        check_both_sides("insertion", insertion, InsertionPolicy, lib.rb_insertion_policy)
        check_both_sides("sampling", sampling, SamplingPolicy, lib.rb_sampling_policy)
        insertion_options, sampling_options = check_policies(insertion, sampling, options)
        policy_options = insertion_options | sampling_options
        if capacity < comm.size:
            raise ValueError(
                f"buffer.capacity must be at least 1 record for each rank, got {capacity} for {comm.size} ranks"
            )
        if timeout <= 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
        self.capacity, self.device, self.comm = capacity, device, comm
        self.fields = fields
        self._row_shapes = [(field, torch.Size(field.shape).numel()) for field in fields]
        settings, self._addresses = ffi.new("rb_options *"), ffi.new("uintptr_t[]", len(fields))
        self._pointers = ffi.cast("void **", self._addresses)
        settings.size = ffi.sizeof("rb_options")
        settings.capacity = capacity // comm.size + (comm.rank < capacity % comm.size)
        settings.num_classes, settings.seed = num_classes, derive(seed, "replay")
        settings.rank, settings.ranks = comm.rank, comm.size
        settings.label_field = [field.name for field in fields].index("y")
        settings.timeout_seconds = timeout
        settings.token, settings.local = comm.token, comm.is_local
        texts = [text(insertion), text(sampling)]  # kept, like all of these, until rb_create has read them
        settings.insertion, settings.sampling = texts
        numbers = ffi.new("rb_policy_option[]", len(policy_options))
        for number, (name, value) in zip(numbers, policy_options.items()):
            texts.append(text(name))
            number.size, number.name, number.value = ffi.sizeof("rb_policy_option"), texts[-1], value
        settings.policy_options, settings.num_policy_options = numbers, len(numbers)
        columns = ffi.new("rb_field[]", len(fields))
        for column, (field, numel) in zip(columns, self._row_shapes):
            # With shape and dtype, which are of no concern to the library, but tell the files of two buffers apart.
            texts.append(text(f"{field.name} {field.dtype} {tuple(field.shape)}"))
            column.size, column.name = ffi.sizeof("rb_field"), texts[-1]
            column.row_bytes = numel * field.dtype.itemsize
        settings.fields, settings.num_fields = columns, len(columns)
        made = ffi.new("rb_buffer **")
        check(lib.rb_create(settings, made))
        self._buffer = ffi.gc(made[0], lib.rb_destroy)
        self._records = ffi.new("rb_records *", {"size": ffi.sizeof("rb_records")})
        self._leases = Leases(fields)
        self._pending = 0
        self.transfers = Transfers(device)
        if comm.size > 1:
            self._connect()

    def _connect(self) -> None:
        address, length = ffi.new("void **"), ffi.new("size_t *")
        check(lib.rb_address(self._buffer, address, length))
        everybody = self.comm.gather(bytes(ffi.buffer(address[0], length[0])))
        addresses = [ffi.from_buffer(other) for other in everybody]
        check(lib.rb_connect(self._buffer, ffi.new("void *[]", addresses), [len(other) for other in everybody]))

    def fetch(self, records: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.transfers.fetch(records)

    def add(self, records: dict[str, torch.Tensor]) -> None:
        self.transfers.wait()
        length = check_columns(self.fields, records)
        kept = []  # until the call is over
        for i, field in enumerate(self.fields):
            value = records[field.name]
            if not (value.is_cpu and value.is_contiguous()):
                value = value.detach().cpu().contiguous()
                kept.append(value)
            self._addresses[i] = value.data_ptr()
        check(lib.rb_add(self._buffer, length, self._pointers))

    def update(self, name: str, ids: torch.Tensor, values: torch.Tensor) -> None:
        number = check_update(self.fields, name, ids, values)
        ids, values = ids.cpu().contiguous(), values.detach().cpu().contiguous()
        pointers = ffi.cast("uint64_t *", ids.data_ptr()), ffi.cast("void *", values.data_ptr())
        check(lib.rb_update(self._buffer, number, len(ids), *pointers))

    def request(self, n: int) -> None:
        check_draw_size(n)
        self._leases.give_back()
        if status := lib.rb_request(self._buffer, n):
            raise_error(status)
        self._pending += 1

    def receive(self) -> Records:
        records, waits = self._records, self.comm.waits
        waits.received += 1
        waits.place = REPLAY
        status = lib.rb_receive(self._buffer, records)
        waits.place = None
        if status:
            raise_error(status)
        self._pending -= 1
        draw = self._leases.lend(records)
        if self.device.type == "cpu":
            return draw
        return Records(self.transfers.to_device(draw.columns), lambda: draw.weight.to(self.device), lambda: draw.ids)

    @property
    def pending(self) -> int:
        return self._pending

    def __len__(self) -> int:
        return self.statistics().stored

    @property
    def nbytes(self) -> int:
        return self.statistics().shard_bytes

    @property
    def wait_seconds(self) -> float:
        return self.statistics().wait_seconds

    def statistics(self):
        """The struct rb_stats of replay.h: what the buffer holds, has sent and has waited for."""
        stats = ffi.new("rb_stats *", {"size": ffi.sizeof("rb_stats")})
        check(lib.rb_get_stats(self._buffer, stats))
        return stats

    def copy(self) -> "NativeCopy":
        made = ffi.new("rb_copy **")
        with self._waiting():
            check(lib.rb_take_copy(self._buffer, made))
        return NativeCopy(made[0])

    def check(self, *paths: Path) -> None:
        names = [ffi.new("char[]", os.fsencode(path)) for path in paths]
        check(lib.rb_check(self._buffer, ffi.new("char *[]", names), len(names)))

    def load(self, *paths: Path) -> None:
        names = [ffi.new("char[]", os.fsencode(path)) for path in paths]
        sizes, count = ffi.new("uint64_t[]", lib.RB_MOST_PENDING), ffi.new("uint32_t *")
        pointers = ffi.new("char *[]", names)
        check(lib.rb_load(self._buffer, pointers, len(names), sizes, lib.RB_MOST_PENDING, count))
        self._pending = self.statistics().pending
        for size in sizes[0 : count[0]]:  # lost between different numbers of ranks
            self.request(size)

    def close(self) -> None:
        if self._buffer:
            self._leases.forget()
            with self._waiting():
                check(lib.rb_close(self._buffer))

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Where other ranks may keep this one waiting; `receive` writes the same without the cost of a context."""
        waits = self.comm.waits
        waits.received += 1
        waits.place = REPLAY
        try:
            yield
        finally:
            waits.place = None

    def abandon(self) -> None:
        buffer, self._buffer = self._buffer, ffi.NULL  # the library refuses calls with that
        self._leases.forget()
        if buffer:
            ffi.release(buffer)


class NativeCopy:
    """A shard as it was when it was copied, in memory of the library."""

    def __init__(self, copy):
        self._copy = ffi.gc(copy, lib.rb_free_copy)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            check(lib.rb_write_copy(self._copy, os.fsencode(path)))  # cffi gives the lock of the interpreter away
        finally:
            copy, self._copy = self._copy, ffi.NULL  # the library refuses another call with that
            if copy:
                ffi.release(copy)
