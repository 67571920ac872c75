"""Draws as tensors over the buffer's own memory, which goes back to it when the last of them is gone.

Blocks of memory come again and again, so the tensors over a block are made once. Each draw gets aliases of them, which
share one storage: its number of users tells whether any tensor of the draw is left, and any that was made from these.
"""

import numpy as np
import torch
from torch._C import _storage_Use_Count as users_of

from cl.buffers.base import Field, Records
from cl.buffers.library import ffi, lib

MOST_BLOCKS = 64  # that are remembered


class Draw(Records):
    """A draw whose memory is lent."""

    __slots__ = ("_block", "_aliases")

    def __init__(self, block: "_Block", names: list[str]):
        self._block, self.loss_weight = block, 1.0
        self._aliases = [tensor.data for tensor in block.columns]  # these, while weights and ids may be asked for
        self.columns = dict(zip(names, self._aliases))

    @property
    def weight(self) -> torch.Tensor:
        return self._block.weight.data

    @property
    def ids(self) -> torch.Tensor:
        return self._block.ids.data


class Leases:
    """The draws of one buffer whose memory is lent."""

    def __init__(self, fields: list[Field]):
        self._fields, self._names = fields, [field.name for field in fields]
        self._known: dict[tuple, _Block] = {}
        self._lent: list[_Block] = []

    def lend(self, records) -> Draw:
        """The draw in a struct rb_records of replay.h."""
        key = records.lease, records.lease_bytes, records.count
        block = self._known.get(key)
        if block is None:
            if len(self._known) == MOST_BLOCKS:  # the sizes of draws change all the time
                self._known.clear()
            block = self._known[key] = _Block(self._fields, records)
        block.lent[0] = True
        self._lent.append(block)
        return Draw(block, self._names)

    def give_back(self) -> None:
        """Give memory back of which no tensor is left."""
        if self._lent:
            self._lent = [block for block in self._lent if not block.give_back()]

    def forget(self) -> None:
        """Keep no tensors: what is lent goes back by itself, also when the buffer is gone."""
        self.give_back()
        self._known, self._lent = {}, []


class _Block:
    """The tensors over a block of memory, for draws of one length."""

    def __init__(self, fields: list[Field], records):
        begin, n = _address(records.lease), records.count
        self.lease, self.lent = records.lease, [False]
        memory = ffi.buffer(ffi.gc(records.lease, _Return(self.lent)), records.lease_bytes)
        whole = torch.from_numpy(np.ndarray(records.lease_bytes, np.uint8, memory))
        self.columns = [
            _part(whole, _address(records.columns[i]) - begin, (n, *field.shape), field.dtype)
            for i, field in enumerate(fields)
        ]
        self.weight = _part(whole, _address(records.weights) - begin, (n,), torch.float32)
        self.ids = _part(whole, _address(records.ids) - begin, (n,), torch.int64)
        self._storage = whole.untyped_storage()
        self._number = self._storage._cdata
        del whole
        self._own_users = users_of(self._number)

    def give_back(self) -> bool:
        """Give the memory back if no draw uses it any more."""
        if users_of(self._number) > self._own_users:
            return False
        self.lent[0] = False
        lib.rb_release(self.lease)
        return True


class _Return:
    """Gives a block back if it is lent when the tensors over it are gone; knows nothing else, so that they can go."""

    def __init__(self, lent: list[bool]):
        self._lent = lent

    def __call__(self, lease) -> None:
        if self._lent[0]:
            lib.rb_release(lease)


def _part(whole: torch.Tensor, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return whole[offset : offset + size].view(dtype).view(shape)


def _address(pointer) -> int:
    return int(ffi.cast("uintptr_t", pointer))
