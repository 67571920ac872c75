"""What a frozen part makes of the pictures of a data set, computed once and kept in a file.

The samples of the run are then these features: its loop, its memory and its tests take them as they would take
pictures, and its network computes the rest. Files lie in .features/ of the output folder, under a key of everything
that they depend on: the frozen weights and code, how pictures are prepared, the pictures themselves, the kind of
device. They may be removed at any time.
"""

import hashlib
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cl.atomic import atomic_write
from cl.build import shared_options
from cl.data.loader import in_order
from cl.data.rows import Rows
from cl.data.streaming import FileImages
from cl.data.transforms import BatchTransform
from cl.datasets.base import Dataset, Split
from cl.distributed.comm import Comm
from cl.networks.extraction import Extraction
from cl.networks.flops import flops
from cl.networks.frozen import Frozen, cut, frozen_weights
from cl.processors import processors
from cl.reporting import screen
from cl.reporting.progress import Progress
from cl.run.folder import FEATURES
from cl.run.lock import locked
from cl.run.plan import Plan
from cl.scenarios.base import Tasks

VERSION = 2  # raised when extracting gives other numbers, or the files have another form
END = struct.Struct("<dI")  # what follows the array in a file: seconds that it took, and a checksum of all before


def why_not(plan: Plan) -> str:
    """Why features cannot be computed once for a plan; "" where they can."""
    config, scenario = plan.config, plan.scenario
    if plan.dataset.augment and plan.strategy.trains:  # without training nothing is augmented
        return f"dataset.augment={plan.dataset.augment} changes pictures; with [] what it gives is computed once"
    if any(config["mixing"].values()):
        return "mixing changes pictures; without it what it gives is computed once"
    if scenario.changes_pictures:
        return f"each task of scenario={config['scenario']['name']} changes pictures in its own way"
    if scenario.targets:
        return f"scenario={config['scenario']['name']} shows pictures beside what is made of them"
    return ""


class Features:
    """Computes, keeps and finds the features of a plan's pictures.

    `shape`: of one sample's features; `seconds`: that it took to compute those that are used, here or earlier;
    `found`: whether all of them were there already.
    """

    def __init__(
        self, plan: Plan, network: nn.Module, transform: BatchTransform, mean: list | None, std: list | None, comm: Comm
    ):  # fmt: skip
        """From here on the network takes features. Raises ValueError for one that cannot be cut."""
        config, dataset = plan.config, plan.dataset
        half = shared_options(config["backbone"], "backbone")["cache"] == "float16"
        if half and config["precision"] == "bf16":
            raise ValueError(
                "backbone.cache=float16 does not go with precision=bf16, the other format of 16 bits: leave out one"
            )
        self.dtype = torch.float16 if half else torch.float32
        self.network, self.transform, self.comm = network, transform, comm
        self.device, self.name = transform.generator.device, config["dataset"]["name"]
        self.folder = Path(config["output"]) / FEATURES
        # All processors of a host: its other ranks wait for the file.
        self.threads = processors() if config["threads"] == "auto" else config["threads"]
        self.progress = config["progress"]
        empty = torch.zeros(1, *dataset.sample_shape, dtype=dataset.sample_dtype, device=self.device)
        picture = transform.test(empty)
        self._flops = flops(network, picture)[0]
        self.extraction = Extraction(network, cut(network), picture)
        self.shape = self.extraction.shape
        network.takes_features = True
        self._flops -= flops(network, torch.zeros(1, *self.shape, device=self.device))[0]
        node = {key: value for key, value in config["backbone"].items() if key not in ("lora", "cache")}
        self._prepared = node, mean, std, transform.side, transform.size, self.shape, self.dtype
        self.keys: list[str] = []
        self.samples, self.seconds, self.found = 0, 0.0, True

    @property
    def flops(self) -> int:
        """FLOPs of computing the features of the training pictures, once; as everywhere, tests do not count."""
        return self.samples * self._flops

    def of(self, part: str, split: Split) -> Split:
        """A split with features in place of its pictures: from the file, or computed, by one process at a time."""
        if part == "training":
            self.samples = len(split)
        key = self._key(split)
        self.keys.append(key)
        path = self.folder / f"{self.name}-{part}-{key}.npy"
        with locked(self.folder / key, wait=True):
            array = self._read(path, len(split))
            if array is None:
                self.found = False
                self._compute(path, part, split)
                array = self._read(path, len(split))
                assert array is not None, path
        return Split(torch.from_numpy(array), split.y, split.targets)

    def check(self, tasks: Tasks) -> None:
        """Raise ValueError for tasks that change their samples."""
        if any(each is not None for each in tasks._transforms):
            raise ValueError(
                "a task of this scenario changes its pictures, but the scenario does not say so: set "
                "changes_pictures = True in its class, or backbone.cache=false"
            )

    def _key(self, split: Split) -> str:
        digest = hashlib.sha256(f"{VERSION} {self._prepared} {self.device.type} {self.extraction.code}".encode())
        for name, value in self.extraction.state.items():
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(_bytes(value))
        x = split.x
        digest.update(f"{tuple(x.shape)} {x.dtype}".encode())
        if isinstance(x, FileImages):
            digest.update(f"{x.decoder}".encode())
            for name in x.paths.tolist():
                status = os.stat(name)
                digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        else:
            digest.update(_bytes(x))
        return digest.hexdigest()[:16]

    def _read(self, path: Path, count: int) -> np.ndarray | None:
        """The features in a file, in memory as far as they are used; None if it is not there, or damaged."""
        if not path.is_file():
            return None
        try:
            array = np.load(path, mmap_mode="c")
            with open(path, "rb") as file:
                file.seek(-END.size, os.SEEK_END)
                seconds, checksum = END.unpack(file.read())
            whole = array.shape == (count, *self.shape) and checksum == _checksum(array, seconds)
        except (ValueError, OSError, EOFError, struct.error):
            whole = False
        if not whole:
            screen.say(f"{path} is damaged, it is not what was written: its features are computed again")
            return None
        self.seconds += seconds
        return array

    def _compute(self, path: Path, part: str, split: Split) -> None:
        size = self.extraction.batch
        rows, started = Rows({"x": split.x, "y": split.y}), time.perf_counter()
        bar = Progress(f"features of {part} pictures", -(-len(split) // size), 0, self.progress and self.comm.is_main)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(str(self.dtype)[6:])), "fortran_order": False}
        checksum = 0
        try:
            with atomic_write(path) as file:
                np.lib.format.write_array_header_1_0(file, header | {"shape": (len(split), *self.shape)})
                pictures = (batch.x.to(self.device) for batch in in_order(rows, size))
                for found in self.extraction.over(pictures, self.transform.test, self.threads):
                    content = _bytes(found.to("cpu", self.dtype))
                    checksum = zlib.crc32(content, checksum)
                    file.write(content)
                    bar.step()
                seconds = time.perf_counter() - started
                file.write(END.pack(seconds, zlib.crc32(struct.pack("<d", seconds), checksum)))
        finally:
            bar.close()
        up_to = "the last layer" if self.network.frozen_up_to is True else self.network.frozen_up_to
        screen.say(
            f"features of {len(split)} {part} pictures up to {up_to}: computed in {seconds:.1f} s, kept in {path}"
        )


class FeatureSet(Dataset):
    """The features of a data set's pictures in their place."""

    def __init__(self, pictures: Dataset, features: Features):
        super().__init__(pictures.validation, None, None, [])
        self.pictures, self.features = pictures, features
        self.num_classes, self.sample_shape = pictures.num_classes, features.shape
        self.dtype_name = str(features.dtype)[6:]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.sample_shape

    def check(self) -> None:
        self.pictures.check()

    def read(self) -> tuple[Split, Split]:
        return tuple(self.features.of(part, split) for part, split in zip(("training", "test"), self.pictures.read()))

    def load(self, seed: int, loader=None, view=None) -> tuple[Split, Split]:
        return self.pictures.load(seed, loader, view=self.features.of)


def frozen(network: nn.Module, features: Features | None) -> dict:
    """The entry of results.json on a frozen part; {} for a network that is trained as a whole."""
    if not isinstance(network, Frozen):
        return {}
    weights = frozen_weights(network)
    once = None
    if features is not None:
        once = {
            "keys": features.keys, "shape": list(features.shape), "dtype": str(features.dtype)[6:],
            "training_samples": features.samples, "flops": features.flops, "seconds": features.seconds,
            "found": features.found,
        }  # fmt: skip
    return {"frozen": {"up_to": network.frozen_up_to, "weights": weights, "features": once}}


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(np.ascontiguousarray(tensor.detach().cpu().numpy())).cast("B")


def _checksum(array: np.ndarray, seconds: float) -> int:
    found = 0
    rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        found = zlib.crc32(np.ascontiguousarray(array[start : start + rows]), found)
    return zlib.crc32(struct.pack("<d", seconds), found)
