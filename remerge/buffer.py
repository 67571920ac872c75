"""The replay memory by itself, for a training loop of one's own in one process."""

import torch

from cl.buffers.base import Field, Records
from cl.buffers.settings import check_buffer
from cl.build import build, options_of
from cl.distributed.comm import Comm
from cl.values import did_you_mean, one_of

KINDS = {"native": "cl.buffers.native.NativeBuffer", "reference": "cl.buffers.reference.ReferenceBuffer"}


class ReplayBuffer:
    """A memory of `capacity` records; what a record is follows from the first `add`.

        buffer = ReplayBuffer(200)
        for x, y in batches:
            replayed = buffer.sample(32)
            loss = f(network(x), y) + (f(network(replayed["x"]), replayed["y"]) if len(replayed) else 0)
            ...
            buffer.add(x=x, y=y)

    `insertion` and `sampling` name the policies (docs/replay_buffer.md); `num_classes`: labels lie below it; `kind`:
    native (C++) or reference (Python, also with the class of a policy of your own, docs/extending.md); `options`: those
    of the policies. Raises ValueError for what makes no sense.
    """

    def __init__(
        self, capacity: int, insertion: str | type = "reservoir", sampling: str | type = "uniform", seed: int = 0,
        num_classes: int = 1000, kind: str = "native", **options,
    ):  # fmt: skip
        self.capacity, self.seed, self.num_classes = capacity, seed, num_classes
        if kind not in KINDS:
            raise ValueError(f"kind must be {one_of(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}")
        self._node = {"_target_": KINDS[kind], "capacity": capacity, **options}
        self._node |= {"insertion": _dotted(insertion), "sampling": _dotted(sampling)}
        check_buffer(self._node)
        options_of(self._node, "buffer")
        self._buffer = None

    def add(self, **columns: torch.Tensor) -> None:
        """Offer a batch, a tensor [B, ...] for each field; `y`, int64, is the class. The policy decides what stays."""
        if "y" not in columns:
            raise ValueError(f"a record needs a field y, its class (int64), got {', '.join(columns) or 'nothing'}")
        if self._buffer is None:
            self._open(columns)
        self._buffer.add({name: column.detach() for name, column in columns.items()})

    def sample(self, n: int) -> Records:
        """min(n, stored) different records, `["x"]` and so on, with `.ids` and `.weight`; none before the first add."""
        if self._buffer is None:
            return Records({"y": torch.zeros(0, dtype=torch.int64)}, torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        self._buffer.request(n)
        return self._buffer.receive()

    def update(self, name: str, ids: torch.Tensor, values: torch.Tensor) -> None:
        """Replace a field of stored records, by the `ids` that a draw gave; those that are gone are passed over."""
        if self._buffer is None:
            raise ValueError("there is nothing to update: add records first")
        self._buffer.update(name, ids, values)

    def __len__(self) -> int:
        return 0 if self._buffer is None else len(self._buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of the records at full capacity."""
        return 0 if self._buffer is None else self._buffer.nbytes

    def __repr__(self) -> str:
        policies = f"{self._node['insertion']} insertion, {self._node['sampling']} draws"
        return f"{len(self)} of {self.capacity} records, {policies}"

    def close(self) -> None:
        """Free the memory."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None

    def _open(self, columns: dict[str, torch.Tensor]) -> None:
        fields = [Field(name, tuple(column.shape[1:]), column.dtype) for name, column in columns.items()]
        self._buffer = build(
            self._node, "buffer", fields=fields, num_classes=self.num_classes, seed=self.seed,
            device=columns["y"].device, comm=Comm(), timeout=300.0,
        )  # fmt: skip


def _dotted(policy: str | type) -> str:
    """The name of a policy; of a class the one by which it is imported."""
    return policy if isinstance(policy, str) else f"{policy.__module__}.{policy.__qualname__}"
