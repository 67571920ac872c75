"""Whether a replay memory keeps its memory and its descriptors over very many steps.

    python benchmarks/replay_soak.py [--steps 1000000] [--ranks 1] [--lines 10]

In each step a rank receives a draw of 8 small records, adds 8, updates a field of those received and requests the next
draw; after each tenth of the steps a copy is written to a temporary file. Printed are resident memory, descriptors and
threads of each rank. It fails if between the second line and the last one memory has grown by more than 1 MB or any
descriptor or thread is left over.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.distributed.watch import Waits

FIELDS = [Field("x", (16,), torch.uint8), Field("y", (), torch.int64), Field("logits", (10,), torch.float32)]
BATCH, CLASSES, CAPACITY = 8, 10, 1000
GROWTH_LIMIT = 1 << 20  # bytes


class PipeComm:
    """The part of cl.distributed.comm.Comm that the buffer needs, for one rank or two."""

    token, is_local = os.urandom(16), True

    def __init__(self, rank: int, size: int, pipe):
        self.rank, self.size, self.pipe, self.waits = rank, size, pipe, Waits()

    def gather(self, content) -> list:
        self.pipe.send_bytes(content)
        other = self.pipe.recv_bytes()
        return [content, other] if self.rank == 0 else [other, content]


def measure() -> tuple[int, int, int]:
    """Resident bytes, descriptors and threads of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def soak(comm: PipeComm, steps: int, lines: int, folder: str) -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    buffer = NativeBuffer(CAPACITY, "class_balanced", "class_balanced", FIELDS, CLASSES, 0, cpu, comm, 120.0)
    generator = torch.Generator().manual_seed(comm.rank)
    batch = {
        "x": torch.randint(0, 256, (BATCH, 16), dtype=torch.uint8, generator=generator),
        "y": torch.arange(BATCH) % CLASSES,
        "logits": torch.rand(BATCH, 10, generator=generator),
    }
    buffer.add(batch)
    buffer.request(BATCH)
    measured, started = [], time.perf_counter()
    for step in range(1, steps + 1):
        records = buffer.receive()
        batch["y"].add_(1).remainder_(CLASSES)
        buffer.add(batch)
        buffer.update("logits", records.ids, records["logits"] + 1)
        buffer.request(BATCH)
        del records
        if step % (steps // lines) == 0:
            buffer.copy().write(Path(folder) / f"shard_{comm.rank}")
            measured.append(measure())
            resident, descriptors, threads = measured[-1]
            print(
                f"rank {comm.rank}  step {step:8d}  {resident / 2**20:8.2f} MB  {descriptors:3d} descriptors  "
                f"{threads:2d} threads  {time.perf_counter() - started:7.1f} s",
                flush=True,
            )
    refused = buffer.statistics().messages_refused
    buffer.close()
    grown = measured[-1][0] - measured[1][0]
    if grown > GROWTH_LIMIT or measured[-1][1:] != measured[1][1:] or refused:
        raise SystemExit(
            f"rank {comm.rank}: memory grew by {grown} bytes, or descriptors, threads or refusals are left"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2))
    parser.add_argument("--lines", type=int, default=10, help="lines printed, at least 3")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    ends = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(
                target=soak, args=(PipeComm(rank, options.ranks, end), options.steps, options.lines, folder)
            )
            for rank, end in zip(range(options.ranks), ends)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    raise SystemExit(max(process.exitcode != 0 for process in ranks))


if __name__ == "__main__":
    main()
