"""Pictures that stay in their files: decoded by worker processes ahead of the training step that needs them.

The workers know nothing of epochs, ranks or tasks. They are sent the names of the files of a batch and answer with its
pixels in shared memory; batches come back in the order in which they were asked for, whatever the number of workers.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cl.values import Count, Natural

if TYPE_CHECKING:  # it imports Pillow, and most data sets have no picture files
    from cl.data.decoding import Decoder

Request = tuple["Decoder", list[bytes]]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Workers:
    """Worker processes that live as long as the run.

    `workers`: their number, "auto" for the processors that each rank of the host has, 0 for none (this process decodes
    between the steps); `prefetch`: batches that each of them is ahead.
    """

    def __init__(self, workers: Natural | Literal["auto"], prefetch: Count, device: torch.device, local_ranks: int = 1):
        if workers == "auto":
            workers = max(1, processors() // local_ranks)
        self.workers, self.prefetch, self.device = workers, prefetch, device
        self._requests: Iterator[Request] = iter(())
        self._loader = None
        self._streams = 0

    def stream(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """The batches [B, C, H, W] uint8 of the requests, in order, in memory that is pinned for a GPU.

        One stream at a time: beginning another ends the one before.
        """
        self._streams += 1
        number, self._requests = self._streams, iter(requests)
        if self._loader is None:
            self._loader = self._start()
        for batch in self._loader:
            if isinstance(batch, ValueError):
                raise batch
            yield batch
            if number != self._streams:
                raise RuntimeError("another stream of pictures has begun: this one cannot go on")

    def close(self) -> None:
        """End the workers."""
        self._loader = None

    def _start(self) -> torch.utils.data.DataLoader:
        options = {}
        if self.workers:
            # Not forked from this process: it has threads (the replay memory, Horovod, MPI), which a fork would cut off
            # in the middle of whatever they hold.
            context = torch.multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["cl.data.decoding"])
            options = {"prefetch_factor": self.prefetch, "persistent_workers": True, "multiprocessing_context": context}
        return torch.utils.data.DataLoader(
            _Decoded(), batch_sampler=_Requests(self), num_workers=self.workers, collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda", **options,
        )  # fmt: skip


class _Decoded(torch.utils.data.Dataset):
    """What the workers run: it has no samples of its own, each request says which files and how."""

    def __getitems__(self, request: Request) -> torch.Tensor | ValueError:
        decoder, paths = request
        try:
            return decoder.batch(paths, shared=torch.utils.data.get_worker_info() is not None)
        except ValueError as error:  # handed over as it is: torch would wrap it in the worker's traceback
            return ValueError(str(error))


class _Requests:
    """The batch sampler: the requests of the stream that was begun last."""

    def __init__(self, workers: Workers):
        self.workers = workers

    def __iter__(self) -> Iterator[Request]:
        return self.workers._requests


def _unchanged(batch: torch.Tensor | ValueError) -> torch.Tensor | ValueError:
    return batch


@dataclass(frozen=True, eq=False)
class FileImages:
    """N pictures in files, as if they were a tensor [N, C, H, W] uint8 on a device.

    `paths` [N] bytes; `change`: a function of uint8 images that is applied to every batch, or None.
    """

    paths: np.ndarray
    decoder: "Decoder"
    loader: Workers
    device: torch.device = torch.device("cpu")
    change: object = None

    dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.decoder.shape)

    def __getitem__(self, which: torch.Tensor | slice) -> "FileImages":
        """Some of them; no file is read."""
        if isinstance(which, torch.Tensor):
            which = which.cpu().numpy()
        return replace(self, paths=self.paths[which])

    def to(self, device: torch.device) -> "FileImages":
        """The same; batches will be on another device."""
        return replace(self, device=torch.device(device))

    def changed(self, change) -> "FileImages":
        """The same; a function is applied to every batch."""
        return replace(self, change=change)

    @staticmethod
    def cat(parts: list["FileImages"]) -> "FileImages":
        """Several, one after the other. Raises ValueError where they are changed in different ways."""
        if any(part.change is not parts[0].change for part in parts):
            raise ValueError(
                "tasks that change their pictures in different ways cannot be joined while the pictures are streamed; "
                "set dataset.stream=false"
            )
        return replace(parts[0], paths=np.concatenate([part.paths for part in parts]))

    def load(self) -> torch.Tensor:
        """All of them, decoded by threads of this process: for a few samples at any time."""
        with ThreadPoolExecutor(processors()) as pool:  # decoding frees the interpreter lock
            found = list(pool.map(self.decoder, self.paths.tolist()))
        return self._finished(torch.stack(found).to(self.device))

    def stream(self, chosen: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The pictures at some indices, batch by batch, decoded ahead by the workers."""
        requests = ((self.decoder, self.paths[part.cpu().numpy()].tolist()) for part in chosen)
        return map(self._finished, ahead(self.loader.stream(requests), self.device))

    def _finished(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.change is None else self.change(x)


def ahead(batches: Iterator[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """The batches on a device; on a GPU each is copied while the one before it is worked on."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    side = torch.cuda.Stream(device)
    copied = None
    for batch in batches:
        before = copied
        with torch.cuda.stream(side):
            copied = batch.to(device, non_blocking=True)
            done = side.record_event()
        if before is not None:
            yield _received(*before, device)
        copied = (copied, done)
    if copied is not None:
        yield _received(*copied, device)


def _received(batch: torch.Tensor, done: torch.cuda.Event, device: torch.device) -> torch.Tensor:
    current = torch.cuda.current_stream(device)
    current.wait_event(done)
    batch.record_stream(current)  # its memory is not given away before the work on it is done
    return batch
