"""Passes of single samples through a network, counted where they happen: in the network's own call.

A step is no measure of compute: one of ER is two batches, one of DER++ three, and some methods ask a second network.
Counting in the call needs nothing of the method, so a strategy that calls its network itself is counted as well.
Rejected: a hook at the gradient of each output, which costs more than twice as much as the one at the call (12 us a
step against 5 us, where a step of ER on the smallest network takes 250 us).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from cl.distributed.comm import Comm

COLUMNS = ("forward_passes", "backward_passes", "unlabelled_forward_passes", "unlabelled_backward_passes")


class Passes:
    """Rows that went through the watched networks forwards and backwards, on this rank, since the last `take`.

    A network is copied with its watch: its copies (teachers, merged networks) count here too. An output with gradients
    counts as one backward pass as well, so a forward pass for something else than a loss belongs under `no_grad`.
    `unlabelled`: passes of images whose labels the method does not use. Not counted is what happens while `paused`.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COLUMNS, 0)
        self._forward, self._backward, *_ = COLUMNS
        self._paused = False

    def watch(self, network: nn.Module) -> None:
        """Count the rows of every call of a network, and of its copies."""
        network.register_forward_hook(self)

    def compiled(self, network: nn.Module) -> Callable[..., torch.Tensor]:
        """What counts the calls of a compiled network from outside: the compiler may or may not keep a hook inside."""

        def call(*given, **named) -> torch.Tensor:
            with self.paused():
                output = network(*given, **named)
            self(network, given, output)
            return output

        return call

    def __call__(self, network: nn.Module, given: tuple, output: torch.Tensor) -> None:
        """The hook of a watched network."""
        if torch.compiler.is_compiling() or self._paused:
            return
        rows = output.shape[0]
        self.counts[self._forward] += rows
        if output.requires_grad:
            self.counts[self._backward] += rows

    def __deepcopy__(self, memo: dict) -> "Passes":
        return self

    def count(self, forward: int, backward: int) -> None:
        """Add passes that no hook can see, such as those of gradients by sample."""
        self.counts[self._forward] += forward
        self.counts[self._backward] += backward

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside this block nothing is counted by the networks."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def labelled(self) -> AbstractContextManager:
        """Inside this block passes are of samples with their labels, as they are outside any."""
        return self._in(COLUMNS[:2])

    def unlabelled(self) -> AbstractContextManager:
        """Inside this block passes are of images whose labels are not used."""
        return self._in(COLUMNS[2:])

    @contextmanager
    def _in(self, columns: tuple[str, str]) -> Iterator[None]:
        before = self._forward, self._backward
        self._forward, self._backward = columns
        try:
            yield
        finally:
            self._forward, self._backward = before

    def take(self, comm: Comm) -> dict[str, int]:
        """The four counts since the last call, on all ranks together; every rank calls this."""
        sums = comm.sum(torch.tensor(list(self.counts.values()), dtype=torch.float64))
        self.counts = dict.fromkeys(COLUMNS, 0)
        return dict(zip(COLUMNS, map(int, sums.tolist())))

    def adopt(self, states: list[dict], rank: int) -> None:
        """Take the counts of ranks that were not as many: rank 0 takes all of them."""
        self.counts = {name: 0 if rank else sum(state[name] for state in states) for name in COLUMNS}

    def state_dict(self) -> dict:
        """The counts as they are."""
        return dict(self.counts)

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.counts = dict(state)
