"""Streamed pictures: worker processes decode them from their files ahead of the training step that needs them.

The workers do not know about epochs, ranks or tasks. They receive the file names of a batch and return its pixels in
shared memory. Batches come back in the order of the requests, for any number of workers.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cl.parent import end_with_parent
from cl.processors import processors
from cl.values import Count, Natural

if TYPE_CHECKING:  # it imports Pillow, which most data sets do not need
    from cl.data.decoding import Decoder

Request = tuple["Decoder", list[bytes]]


class Workers:
    """Worker processes that run until `close`.

    `workers`: their number; "auto": the host's processors divided by its ranks; 0: this process decodes between the
    steps. `prefetch`: number of batches that each worker decodes ahead.
    """

    def __init__(self, workers: Natural | Literal["auto"], prefetch: Count, device: torch.device, local_ranks: int = 1):
        if workers == "auto":
            workers = max(1, processors() // local_ranks)
        self.workers, self.prefetch, self.device = workers, prefetch, device
        self._requests: Iterator[Request] = iter(())
        self._loader = None
        self._streams = 0

    def stream(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yield the batches [B, C, H, W] uint8 of the requests in order, in pinned memory if there is a GPU.

        There is one stream at a time: a new one ends the one before, which then raises RuntimeError.
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
                raise RuntimeError("another stream of pictures has begun: expected one stream at a time")

    def close(self) -> None:
        """End the workers."""
        self._loader = None

    def _start(self) -> torch.utils.data.DataLoader:
        options = {}
        if self.workers:
            # Not forked from this process: a fork would stop its threads (replay memory, Horovod, MPI) while they hold
            # locks.
            context = torch.multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["cl.data.decoding"])
            options = {"prefetch_factor": self.prefetch, "persistent_workers": True, "multiprocessing_context": context}
            options["worker_init_fn"] = end_with_parent  # torch looks at the wrong parent, the server
        # With a generator of its own: it draws seeds for its workers, which need none, when a stream begins. From the
        # process's generator that would change what a run draws, and so would a resume within an epoch.
        return torch.utils.data.DataLoader(
            _Decoded(), batch_sampler=_Requests(self), num_workers=self.workers, collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda", generator=torch.Generator(), **options,
        )  # fmt: skip


class _Decoded(torch.utils.data.Dataset):
    """The data set inside the workers: decodes the files of each request."""

    def __getitems__(self, request: Request) -> torch.Tensor | ValueError:
        decoder, paths = request
        try:
            return decoder.batch(paths, shared=torch.utils.data.get_worker_info() is not None)
        except ValueError as error:  # returned, not raised: torch would wrap it in the worker's traceback
            return ValueError(str(error))


class _Requests:
    """The batch sampler: yields the requests of the newest stream."""

    def __init__(self, workers: Workers):
        self.workers = workers

    def __iter__(self) -> Iterator[Request]:
        return self.workers._requests


def _unchanged(batch: torch.Tensor | ValueError) -> torch.Tensor | ValueError:
    return batch


@dataclass(frozen=True, eq=False)
class FileImages:
    """N pictures in files, with the interface of a uint8 tensor [N, C, H, W] on a device.

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
        """The pictures at the indices `which`; reads no file."""
        if isinstance(which, torch.Tensor):
            which = which.cpu().numpy()
        return replace(self, paths=self.paths[which])

    def to(self, device: torch.device) -> "FileImages":
        """The same pictures, with batches on another device."""
        return replace(self, device=torch.device(device))

    def changed(self, change) -> "FileImages":
        """The same pictures, with a function applied to every batch."""
        return replace(self, change=change)

    @staticmethod
    def cat(parts: list["FileImages"]) -> "FileImages":
        """Concatenate several; raises ValueError if their `change` differs."""
        if any(part.change is not parts[0].change for part in parts):
            raise ValueError(
                "tasks that change their pictures in different ways cannot be joined while the pictures are streamed: "
                "set dataset.stream=false"
            )
        return replace(parts[0], paths=np.concatenate([part.paths for part in parts]))

    def load(self) -> torch.Tensor:
        """Decode all pictures with threads of this process; meant for a few samples."""
        with ThreadPoolExecutor(processors()) as pool:  # decoding frees the interpreter lock
            found = list(pool.map(self.decoder, self.paths.tolist()))
        return self._finished(torch.stack(found).to(self.device))

    def stream(self, chosen: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield one batch for each tensor of indices, decoded ahead by the workers."""
        requests = ((self.decoder, self.paths[part.cpu().numpy()].tolist()) for part in chosen)
        return map(self._finished, ahead(self.loader.stream(requests), self.device))

    def _finished(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.change is None else self.change(x)


def ahead(batches: Iterator[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the batches on a device; a GPU copies each batch while it computes the one before."""
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
    batch.record_stream(current)  # so that its memory is not reused before the work on it is done
    return batch
