"""Whether all ranks of a run do the same: they compare what they were told, what they are and what they have read.

Ranks that differ train on without an error: each takes its part of its own copy of the data, in its own version. So
they exchange short digests, before the data are read and after, and a difference ends the run before its first step.
Only where digests differ is there a second exchange, of what is behind them, to word it. One process compares nothing.
"""

import hashlib
import json
import os
import platform
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path

import numpy as np
import torch

from cl import seeding
from cl.data.streaming import FileImages
from cl.datasets.base import Split
from cl.distributed.comm import Comm
from cl.scenarios.base import Tasks

Details = dict[str, str]  # what was found, by name

# What may be another on each host: where files lie, how they are read, and what is printed. The device and the threads
# are compared as they turned out, and what the files hold after it is read.
MAY_DIFFER = (
    "output", "pictures", "picture_titles", "progress", "debug", "logger", "launcher", "metrics", "trust", "device",
    "threads", "dataset.root", "dataset.download", "dataset.cache", "loader.workers", "loader.threads",
    "loader.prefetch",
)  # fmt: skip
PACKAGES = ("numpy", "torch", "torchvision", "timm", "horovod", "continuum", "Pillow")
MODULES = {"Pillow": "PIL"}
STREAMED_ROWS = 1000  # pictures whose files are read to compare; of their names all are compared
MOST_NAMED = 4  # differences within one kind that a message has room for
REMEDIES = {
    "configuration": "start every rank with the same options",
    "code": "install the same version of the code on every host",
    "packages": "install the same versions on every host",
    "device": "run on hosts of one kind, or set device and threads",
    "pretrained weights": "copy the file to every host anew, or name a revision (hf_hub:USER/MODEL@REVISION)",
    "number of samples": "copy the data set to every host anew",
    "labels": "copy the data set to every host anew",
    "pixels": "copy the data set to every host anew",
    "picture files": "copy the data set to every host anew",
}


def check_program(comm: Comm, config: dict, device: torch.device, weights: dict | None = None) -> None:
    """Raise ValueError on every rank unless configuration, code, packages, device and threads are the same on all.

    `weights`: what results.json says of pretrained ones; their files have to hold the same, wherever they lie.
    """
    if comm.size == 1:
        return
    found = {"configuration": options(config), "code": code(config["trust"]), "packages": packages()}
    # A GPU's numbers do not depend on the threads of the CPU.
    found["device"] = {"device": device.type}
    if device.type == "cpu":
        found["device"]["threads"] = str(torch.get_num_threads())
    if weights is not None:
        found["pretrained weights"] = {"sha256": weights["sha256"]}
    agree(comm, found)


def check_data(comm: Comm, train: Split, test: Split, tasks: Tasks, seed: int) -> None:
    """Raise ValueError on every rank unless all have the same samples and tasks, as far as is looked at.

    Pixels in memory are compared entirely. Of pictures that stay in their files the names are, and the content of
    STREAMED_ROWS files at random places, because reading all of them would take as long as a pass.
    """
    if comm.size == 1:
        return
    splits, parts = {"training": train, "test": test}, {"training": tasks.train_parts, "test": tasks.test_parts}
    found: dict[str, Details] = {
        "packages": packages(),  # the data sets have loaded more of them
        "number of samples": {name: str(len(split)) for name, split in splits.items()},
        "labels": {},
        "pixels": {},
        "picture files": {},
    }
    for name, split in splits.items():
        of_tasks = {f"{name} of task {number + 1}": part for number, part in enumerate(parts[name])}
        found["number of samples"] |= {what: str(len(part.indices)) for what, part in of_tasks.items()}
        found["labels"][name] = digest(split.y, *split.targets.values())
        found["labels"] |= {what: digest(part.indices, part.labels) for what, part in of_tasks.items()}
        if isinstance(split.x, FileImages):
            found["picture files"] |= {f"names, {name}": names(split.x), f"content, {name}": content(split.x, seed)}
        else:
            found["pixels"][name] = digest(split.x)
    agree(comm, found)


def agree(comm: Comm, found: dict[str, Details]) -> None:
    """Raise ValueError, with ranks and differences, unless `found` is the same on every rank; all ranks call this."""
    digests = comm.gather({what: _digest(details) for what, details in found.items()})
    differing = [what for what in found if len({each.get(what) for each in digests}) > 1]
    for number, what in enumerate(differing):
        details = comm.gather(found[what])
        differences: dict[str, list[int]] = {}
        for rank in range(1, comm.size):
            if text := _difference(what, details[0], details[rank]):
                differences.setdefault(text, []).append(rank)
        if differences:
            words = [f"{_ranks(ranks)} from rank 0 in the {what}: {text}" for text, ranks in differences.items()]
            more = f"; the {', '.join(differing[number + 1 :])} differ as well" if differing[number + 1 :] else ""
            raise ValueError(f"{'; '.join(words)}{more}: {REMEDIES[what]}")


def options(config: dict) -> Details:
    """The configuration as text by key, without what may differ."""
    found = {}

    def add(key: str, value) -> None:
        if key in MAY_DIFFER:
            return
        if isinstance(value, dict) and value:
            for name, item in value.items():
                add(f"{key}.{name}", item)
        else:
            found[key] = json.dumps(value)

    for key, value in config.items():
        add(key, value)
    return found


def code(trusted: list[str]) -> Details:
    """The digest of each file of remerge, its native part included, and of the modules that the user trusts."""
    root = Path(__file__).resolve().parent.parent.parent
    ours = [path for name in ("cl", "merging") for end in ("*.py", "*.so") for path in (root / name).rglob(end)]
    files = {path.relative_to(root).as_posix(): path for path in ours}
    for name in trusted:
        top = _place(name)
        inside = sorted(top.rglob("*.py")) if top is not None and top.is_dir() else [top] if top is not None else []
        files |= {f"{name}/{path.relative_to(top).as_posix()}" if path != top else name: path for path in inside}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in sorted(files.items())}


def packages() -> Details:
    """The versions of Python and of those packages that are loaded here and have a part in the numbers."""
    loaded = [name for name in PACKAGES if MODULES.get(name, name) in sys.modules]
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in loaded}


def digest(*columns: torch.Tensor | np.ndarray) -> str:
    """The CRC-32 of the bytes of arrays, one after the other.

    It is compared between ranks that mean well, so the fastest check that finds every burst of wrong bytes will do:
    60 ms for the training data of CIFAR-10, where SHA-256 takes 140.
    """
    found = 0
    for column in columns:
        array = column.numpy() if isinstance(column, torch.Tensor) else column
        found = zlib.crc32(np.ascontiguousarray(array), found)
    return f"{found:08x}"


def names(pictures: FileImages) -> str:
    """The digest of the names of all files, without the beginning that they share: the folder may be another."""
    letters = np.ascontiguousarray(pictures.paths).view(np.uint8).reshape(len(pictures), -1)
    same = (letters == letters[0]).all(axis=0)
    return digest(letters[:, int(same.argmin()) if not same.all() else 0 :])


def content(pictures: FileImages, seed: int) -> str:
    """The digest of the files at STREAMED_ROWS places that the seed decides, of all files if there are no more."""
    places = np.arange(len(pictures))
    if len(places) > STREAMED_ROWS:
        places = np.sort(seeding.generator(seed, "agreement").choice(places, STREAMED_ROWS, replace=False))
    with ThreadPoolExecutor(8) as pool:  # waits for the disk or the network most of the time
        found = list(pool.map(_of_file, pictures.paths[places].tolist()))
    return hashlib.sha256(b"".join(found)).hexdigest()[:8]


def _of_file(path: bytes) -> bytes:
    return hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest()


def _place(module: str) -> Path | None:
    """The file of a module, or the folder of a package, found without importing it; None if there is none."""
    top, *rest = module.split(".")
    spec = util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    for name in rest:
        path = path / name if (path / name).is_dir() else path / f"{name}.py"
    return path if path.exists() else None


def _digest(details: Details) -> str:
    return hashlib.sha256(json.dumps(details, sort_keys=True).encode()).hexdigest()[:16]


def _difference(what: str, expected: Details, got: Details) -> str:
    """What rank 0 has and another has not; "" where there is nothing that both know."""
    keys = [key for key in {**expected, **got} if expected.get(key) != got.get(key)]
    if what == "packages":  # rank 0 alone draws pictures, so it may have loaded more
        keys = [key for key in keys if key in expected and key in got]
    texts = [", ".join(f"{key}={side.get(key, 'nothing')}" for key in keys[:MOST_NAMED]) for side in (expected, got)]
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return f"expected {texts[0]}, got {texts[1]}{more}" if keys else ""


def _ranks(numbers: list[int]) -> str:
    return f"rank {numbers[0]} differs" if len(numbers) == 1 else f"ranks {', '.join(map(str, numbers))} differ"
