"""The cost of augmenting whole batches, compared with the same steps picture by picture and with kornia.

    python benchmarks/augmentations.py [--rounds 5] [--batch-size 64] [--threads 1]

Batches of uint8 pictures: 3x256x256 cropped to 224, and 3x32x32. Peers: torchvision's transforms (v2) with one call per
picture, and those of kornia with one call per batch, if it is installed (pip install kornia). kornia's RandAugment
changes every picture of a batch in the same way. All are timed in turn, and the ratio of times is taken round by round;
below 1 ours is faster.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.data.augmentations import rand_augment, random_resized_crop
from cl.data.transforms import random_crop, random_flip

Step = Callable[[torch.Tensor], torch.Tensor]


def each(transform: Step) -> Step:
    return lambda x: torch.stack([transform(image) for image in x])


def cases() -> dict[str, tuple[int, dict[str, Step]]]:
    """By name: the side of the pictures, and the implementations, ours first."""
    generator = torch.Generator().manual_seed(0)
    found = {
        "resized_crop": (256, {
            "ours": lambda x: random_resized_crop(x, 224, generator),
            "torchvision": each(v2.RandomResizedCrop(224, antialias=True)),
        }),
        "crop": (32, {
            "ours": lambda x: random_crop(x, 4, generator),
            "torchvision": each(v2.RandomCrop(32, padding=4)),
        }),
        "flip": (32, {
            "ours": lambda x: random_flip(x, generator),
            "torchvision": each(v2.RandomHorizontalFlip()),
        }),
        "rand_augment": (224, {
            "ours": lambda x: rand_augment(x, generator),
            "torchvision": each(v2.RandAugment()),
        }),
    }  # fmt: skip
    if importlib.util.find_spec("kornia") is None:
        print("kornia is not installed, so it is left out (pip install kornia)")
        return found
    import kornia.augmentation as K

    def floats(transform: Step) -> Step:
        return lambda x: transform(x.float().div_(255)).mul_(255).round_().to(torch.uint8)

    found["resized_crop"][1]["kornia"] = floats(K.RandomResizedCrop((224, 224), scale=(0.08, 1.0)))
    found["crop"][1]["kornia"] = floats(K.RandomCrop((32, 32), padding=4))
    found["flip"][1]["kornia"] = floats(K.RandomHorizontalFlip())
    found["rand_augment"][1]["kornia"] = floats(K.auto.RandAugment(n=2, m=9))
    return found


def seconds(step: Step, x: torch.Tensor) -> float:
    started = time.perf_counter()
    step(x)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for name, (side, ways) in cases().items():
        x = torch.randint(0, 256, (arguments.batch_size, 3, side, side), dtype=torch.uint8)
        for way in ways.values():
            way(x)
        rows = [{peer: seconds(way, x) for peer, way in ways.items()} for _ in range(arguments.rounds)]
        print(f"{name:13} {1e3 * statistics.median(row['ours'] for row in rows):7.1f} ms per batch", end="")
        for peer in list(ways)[1:]:
            print(f"   ratio to {peer} {statistics.median(row['ours'] / row[peer] for row in rows):5.2f}", end="")
        print()


if __name__ == "__main__":
    main()
