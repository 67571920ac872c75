"""The cost of reading a data set of picture files, compared with only decoding them.

    python benchmarks/image_files.py [--pictures 600] [--rounds 5] [--size 256]

JPEG files of 500x375 pixels (about the mean of ImageNet), cut from two photographs, are read with 1 and 2 worker
processes. One peer is a bare loop of `torchvision.io.decode_jpeg` over the same files in as many processes, which
discards the pixels and does not scale; another peer also scales the centre square. Loader and peers are timed in turn,
and the ratio of images/s is taken round by round. Memory of this process and its workers is measured over an epoch.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.data.decoding import Decoder
from cl.data.loader import epoch_batches
from cl.data.rows import Rows
from cl.data.streaming import FileImages, Workers

BATCH = 50
CPU = torch.device("cpu")


def write_pictures(folder: Path, count: int) -> np.ndarray:
    """Write JPEG files of 500x375 pixels; returns their paths [count]."""
    import sklearn.datasets

    random = np.random.default_rng(0)
    photos = [Image.open(path) for path in sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))]
    paths = []
    for number in range(count):
        left, top = random.integers(0, 60, 2)
        picture = photos[number % 2].rotate(random.uniform(-4, 4)).crop((left, top, left + 560, top + 367))
        paths.append(folder / f"{number}.jpg")
        picture.resize((500, 375)).save(paths[-1], quality=90)
    return np.array([os.fsencode(path) for path in paths])


def bare_loop(paths: list[bytes], size: int | None, connection) -> None:
    """Decode the files for each message; with a size, also scale the centre square of each."""
    from torchvision.io import decode_jpeg, read_file

    warnings.simplefilter("ignore")  # torchvision's warning that these functions are deprecated
    torch.set_num_threads(1)
    connection.send("ready")
    while connection.recv():
        for path in paths:
            image = decode_jpeg(read_file(os.fsdecode(path)))
            if size is not None:
                square = image[None, :, :, 62:437].contiguous(memory_format=torch.channels_last)
                F.interpolate(square, (size, size), mode="bilinear", antialias=True)
        connection.send("done")


class BareLoops:
    """The loop in several processes, each with its part of the files."""

    def __init__(self, paths: np.ndarray, size: int | None, processes: int):
        context = multiprocessing.get_context("spawn")
        self.ends = []
        for number in range(processes):
            end, other = context.Pipe()
            context.Process(
                target=bare_loop, args=(paths[number::processes].tolist(), size, other), daemon=True
            ).start()
            self.ends.append(end)
        self.wait()

    def wait(self) -> None:
        for end in self.ends:
            end.recv()

    def close(self) -> None:
        for end in self.ends:
            end.send(False)

    def __call__(self) -> None:
        for end in self.ends:
            end.send(True)
        self.wait()


def megabytes(processes: list[int]) -> float:
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("Pss:")) / 1e3


def rate(work, count: int) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), arguments.pictures)
        for workers in (1, 2):
            measure(paths, arguments.size, arguments.rounds, workers)


def measure(paths: np.ndarray, size: int, rounds: int, workers: int) -> None:
    """Print the rates and ratios for a number of workers."""
    loader = Workers(workers, 2, CPU)
    labels = torch.zeros(len(paths), dtype=torch.int64)
    samples = Rows({"x": FileImages(paths, Decoder(3, size), loader), "y": labels, "task": labels})

    def epoch(used: list | None = None) -> None:
        for _ in epoch_batches(samples, BATCH, 0, 0, 0):
            if used is not None:
                used.append(megabytes([os.getpid(), *processes_of(loader)]))

    peers = {"decode_jpeg": BareLoops(paths, None, workers), "decode_jpeg + scaling": BareLoops(paths, size, workers)}
    epoch()  # starts the workers
    rates = [[rate(epoch, len(paths)), *(rate(peer, len(paths)) for peer in peers.values())] for _ in range(rounds)]
    own = statistics.median(row[0] for row in rates)
    print(f"{workers} workers: {own:6.0f} images/s")
    for place, name in enumerate(peers, start=1):
        ratios = [row[0] / row[place] for row in rates]
        of_peer = statistics.median(row[place] for row in rates)
        low, high = min(ratios), max(ratios)
        ratio = f"ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
        print(f"  peer {name:24} {of_peer:6.0f} images/s  {ratio}")
    used: list[float] = []
    epoch(used)
    pixels = len(paths) * 3 * size * size / 1e6
    print(f"  memory: {min(used):.0f} to {max(used):.0f} MB during an epoch of {pixels:.0f} MB of pixels")
    loader.close()
    for peer in peers.values():
        peer.close()


def processes_of(loader: Workers) -> list[int]:
    return [worker.pid for worker in loader._loader._iterator._workers]


if __name__ == "__main__":
    main()
