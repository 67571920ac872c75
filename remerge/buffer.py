"""The replay memory by itself, for a training loop of one's own in one process."""

import torch

from cl.buffers.base import Field, Records
from cl.build import build
from cl.distributed.comm import Comm
from remerge.words import configuration, words_of


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
        chosen = {"insertion": insertion, "sampling": sampling}
        own = {key: policy for key, policy in chosen.items() if isinstance(policy, type)}
        chosen |= {key: f"{policy.__module__}.{policy.__qualname__}" for key, policy in own.items()}
        plus = {name for policy in own.values() for name in getattr(policy, "options", ())}
        values = {"buffer.capacity": capacity} | {f"buffer.{key}": name for key, name in chosen.items()}
        values |= {f"{'+' if key in plus else ''}buffer.{key}": value for key, value in options.items()}
        trusted = {"trust": [policy.__module__ for policy in own.values()]}  # who hands over a class trusts it
        words = words_of((f"buffer={kind}",), values | trusted)
        from cl.buffers.settings import check_buffer
        from cl.run.checks import check_options
        from cl.run.folder import plain

        config = plain(configuration("run", words))
        check_options(config)
        check_buffer(config["buffer"])
        self._node, self._buffer = config["buffer"], None

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
