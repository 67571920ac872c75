"""Communication between the ranks of a run: one interface for a single process, Horovod and torch.distributed.

The launcher's environment variables select the engine. All methods are collective: every rank must call them in the
same order.
"""

import contextlib
import hashlib
import math
import os
import re
import secrets
import socket
import sys
from pathlib import Path

import torch
from torch import nn

from cl.distributed import links
from cl.distributed.encoding import decode, encode
from cl.distributed.ranks import TOKEN
from cl.distributed.watch import Exchange, Waits, Watch

NO_CONTEXT = contextlib.nullcontext()
# An engine waits this much longer than remerge: what it says at the end of its own time names no rank.
ENGINE_SECONDS = 15
LARGEST_MESSAGE = 1 << 38  # bytes
REDUCE_OPERATIONS = ("average", "adasum")


class Comm:
    """The group of a single process, and the base class of the others."""

    engine = "none"
    rank = local_rank = 0
    size = local_size = 1
    token = bytes(16)  # which only the ranks of this run know; of one process, which talks to nobody, zeros
    watch: Watch | None = None

    def __init__(self) -> None:
        self.waits = Waits()
        self._gradients, self._sums, self._values = (
            Exchange(self.waits, name) for name in ("gradients", "sums", "values")
        )

    @property
    def is_local(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.local_size == self.size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def introduce(self) -> None:
        """Agree on `token`, and find `local_rank` and `local_size` where the engine does not know them.

        The first call after connecting. Raises ValueError for a REMERGE_TOKEN that is malformed, or not that of all.
        """
        given = _given_token()
        own = [None if given is None else hashlib.sha256(given).hexdigest(), self.local_size > 0, _machine()]
        everybody = self.gather(own)
        if any(digest != own[0] for digest, *_ in everybody):
            raise ValueError(f"the ranks were started with different {TOKEN}: set one for all of them, or none")
        self.token = given or self.broadcast(secrets.token_bytes(16) if self.is_main else None)
        if not all(known for _, known, _ in everybody):
            machines = [machine for *_, machine in everybody]
            self.local_size = machines.count(own[2])
            self.local_rank = machines[: self.rank].count(own[2])

    def guard(self, timeout: float) -> None:
        """Begin to watch the other ranks, so that one for which this rank waits longer than `timeout` seconds is named.

        Raises ConnectionError for a rank that cannot be reached.
        """
        own = [socket.gethostname(), os.getpid()]
        names = [(host, process) for host, process in self.gather(own)]
        if self.is_local:
            address = links.LOOPBACK
        else:
            address = links.own_address([host for host, _ in names if host != own[0]])
        listener = links.listen(address)
        addresses = [(host, port) for host, port in self.gather([address, listener.getsockname()[1]])]
        found, strangers = links.meet(listener, addresses, self.rank, self.token, timeout)
        if strangers:
            print(
                f"rank {self.rank}: {strangers} connections that did not prove to be of this run were dropped",
                file=sys.stderr,
            )
        self.watch = Watch(self.rank, self.waits, timeout, found, names)

    def lost(self) -> str | None:
        """After an error of the engine or the buffer: the rank that is gone or silent, or None if none is known to be.

        Takes up to 1.5 seconds.
        """
        return None if self.watch is None else self.watch.lost()

    def distribute(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, accumulation_steps: int, options: "ReduceOptions"
    ) -> torch.optim.Optimizer:
        """Returns the optimizer to use instead; `accumulation_steps`: backward passes before each `reduce`.

        Raises ValueError for options that this engine, or its build, does not have.
        """
        if not options.plain:
            raise ValueError(
                f"{options} is about the exchange between ranks, but this is one process: leave it out, or start "
                "several ranks (launcher=horovod launcher.np=2)"
            )
        return optimizer

    def reduce(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace the gradients by their mean over the ranks."""
        if self.engine != "none":
            with self._gradients:
                self._reduce(optimizer)

    def applying(self, optimizer: torch.optim.Optimizer):
        """A context in which the optimizer may step after its gradients were reduced."""
        return NO_CONTEXT

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of a tensor that has the same shape on each."""
        if self.engine == "none":
            return values
        with self._sums:
            return self._sum(values)

    def mean(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mean over ranks of each tensor, sent in one message; all must have one dtype."""
        if self.size == 1:
            return values
        with self._sums:
            return self._mean(values)

    def _mean(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        flat = self._sum(torch.cat([value.reshape(-1) for value in values])) / self.size
        return [part.view_as(value) for value, part in zip(values, flat.split([value.numel() for value in values]))]

    def broadcast(self, content):
        """Rank 0's value on every rank: tensors and plain values, see `cl.distributed.encoding`.

        Raises ValueError for other types, and for bytes from rank 0 that are no value.
        """
        if self.size == 1:
            return content
        data = encode(content) if self.is_main else bytearray()
        with self._values:
            size = self._from_first(torch.tensor([len(data)]))
            received = self._from_first(_as_tensor(data) if self.is_main else _empty(0, int(size)))
        return content if self.is_main else _as_value(0, received)

    def gather(self, content) -> list:
        """The values of all ranks, in the order of ranks; as with `broadcast`."""
        if self.size == 1:
            return [content]
        data = encode(content)
        with self._values:
            sizes = [int(size) for size in self._from_all(torch.tensor([len(data)]))]
            # In messages of one length: what ranks send one another differs little.
            message = max((_empty(rank, size) for rank, size in enumerate(sizes)), key=len)
            message[: len(data)] = _as_tensor(data)
            received = self._from_all(message)
        return [_as_value(rank, part[:size]) for rank, (part, size) in enumerate(zip(received, sizes))]

    def _reduce(self, optimizer: torch.optim.Optimizer) -> None:
        raise NotImplementedError

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _from_first(self, message: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor on every rank, where `message` has its shape; may write into `message`."""
        raise NotImplementedError

    def _from_all(self, message: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, which have one shape."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave the group; a second call does nothing."""
        if self.watch is not None:
            self.watch.close()


class ReduceOptions:
    """How gradients are reduced over ranks.

    `operation`: average or adasum. `fp16`: whether to send float16. `predivide`: factor to divide by before the sum;
    the rest of the division follows after it. Raises ValueError for combinations that Horovod does not have.
    """

    def __init__(self, operation: str = "average", fp16: bool = False, predivide: float = 1.0):
        if operation not in REDUCE_OPERATIONS:
            raise ValueError(f"reduce.operation={operation} does not exist; valid: {', '.join(REDUCE_OPERATIONS)}")
        if not isinstance(fp16, bool):
            raise ValueError(f"reduce.fp16 must be true or false, got {fp16}")
        if not isinstance(predivide, (int, float)) or not 0 < predivide < math.inf:
            raise ValueError(f"reduce.predivide must be a number above 0, got {predivide}")
        if operation == "adasum" and predivide != 1.0:
            raise ValueError("reduce.predivide needs reduce.operation=average: Adasum does not divide")
        self.operation, self.fp16, self.predivide = operation, fp16, predivide

    @property
    def plain(self) -> bool:
        """Whether this is the mean in full precision, which every engine has."""
        return not str(self)

    def __str__(self) -> str:
        """The options that differ from the defaults, in the notation of the configuration."""
        given = {"operation": self.operation, "fp16": self.fp16, "predivide": self.predivide}
        default = {"operation": "average", "fp16": False, "predivide": 1.0}
        return ", ".join(f"reduce.{key}={value}" for key, value in given.items() if value != default[key])

    def check_step(self, precision: str, clip_norm: float | None, changes_gradients: bool) -> None:
        """Raise ValueError for options of the step that the operation does not support."""
        # With Horovod's Adasum each rank steps within the backward pass; then Adasum combines the changes of weights.
        if self.operation == "adasum" and clip_norm is not None:
            raise ValueError(f"reduce.operation=adasum has no gradient to clip: leave out clip_norm={clip_norm}")
        if self.operation == "adasum" and precision == "fp16":
            raise ValueError("reduce.operation=adasum steps before fp16's loss scaling is undone: use precision=bf16")
        if self.operation == "adasum" and changes_gradients:
            raise ValueError("reduce.operation=adasum has no gradient that this strategy could change: use average")


def _as_tensor(data: bytearray) -> torch.Tensor:
    return torch.frombuffer(data, dtype=torch.uint8)


def _as_value(rank: int, data: torch.Tensor):
    try:
        return decode(data.numpy())
    except ValueError as error:
        raise ValueError(f"rank {rank} sent {len(data)} bytes that are no value ({error})") from error


def _empty(rank: int, size: int) -> torch.Tensor:
    """Room for the message of a rank; raises ValueError for a size that no message has."""
    if not 0 < size <= LARGEST_MESSAGE:
        raise ValueError(f"rank {rank} sent {size} as the length of a message, expected 1 to {LARGEST_MESSAGE} bytes")
    return torch.empty(size, dtype=torch.uint8)


def _given_token() -> bytes | None:
    """The token in the environment."""
    text = os.environ.get(TOKEN)
    if text is None:
        return None
    if not re.fullmatch("[0-9a-fA-F]{32}", text):
        raise ValueError(
            f"{TOKEN} must have 32 hex digits, got {len(text)} characters: leave it out, and rank 0 makes one"
        )
    return bytes.fromhex(text)


def _machine() -> str:
    """A text that is equal for two processes if they share a machine and its network."""
    name, boot, network = socket.gethostname(), Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
    if not boot.exists():  # not Linux
        return name
    return f"{name} {boot.read_text().strip()} {os.readlink(network)}"
