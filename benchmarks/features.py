"""Milliseconds a picture for the features of a frozen network, beside a plain loop over batches in the same process.

    python benchmarks/features.py [--size 128] [--pictures 512] [--model tf_efficientnet_lite0] [--threads 2]

Both are given uint8 pictures of 32 pixels. The plain loop scales and computes batches of 64 in float32, each operation
shared by all threads, as a script does. They take turns, and the best time of each counts.
"""

import argparse
import time

import timm
import torch
import torch.nn.functional as F

from cl.data.transforms import BatchTransform
from cl.networks.extraction import Extraction
from cl.networks.frozen import cut, freeze
from cl.processors import processors

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=processors())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pictures = torch.randint(0, 256, (given.pictures, 3, 32, 32), dtype=torch.uint8)
    network = timm.create_model(given.model, num_classes=10)
    freeze(network, True, (3, given.size, given.size))
    mean = std = [0.5] * 3
    transform = BatchTransform([], mean, std, 3, torch.device("cpu"), size=given.size)
    extraction = Extraction(network, cut(network), transform.test(pictures[:1]))

    @torch.no_grad()
    def plain() -> torch.Tensor:
        found = []
        for batch in pictures.split(64):
            x = F.interpolate(batch.float() / 255, (given.size, given.size), mode="bicubic", antialias=True)
            found.append(network.forward_head(network.forward_features((x - 0.5) / 0.5), pre_logits=True))
        return torch.cat(found)

    def ours() -> torch.Tensor:
        return torch.cat(list(extraction.over(pictures.split(extraction.batch), transform.test, given.threads)))

    network.eval()
    times = {plain: [], ours: []}
    for _ in range(ROUNDS):
        for each in times:
            started = time.perf_counter(), time.process_time()
            each()
            times[each].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    (wall, cpu), (our_wall, our_cpu) = (
        [1000 * min(part) / given.pictures for part in zip(*times[each])] for each in (plain, ours)
    )
    print(f"{given.model} at {given.size} pixels, {given.threads} threads, milliseconds a picture")
    print(f"plain loop  {wall:6.2f}   of processors {cpu:6.2f}")
    print(f"extraction  {our_wall:6.2f}   of processors {our_cpu:6.2f}")
    print(f"ratio       {wall / our_wall:6.2f}   of processors {cpu / our_cpu:6.2f}")


if __name__ == "__main__":
    main()
