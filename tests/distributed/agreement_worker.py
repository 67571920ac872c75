"""One rank of test_agreement_ranks.py: goes through all the ways in which rank 1 can differ, and notes what is said.

Between them both ranks are equal again, so an exchange that got out of step would show.
"""

import copy
import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from cl.data.decoding import Decoder
from cl.data.streaming import FileImages, Workers
from cl.datasets.base import Split
from cl.distributed import ranks
from cl.distributed.group import connect
from cl.distributed.leaving import leave
from cl.run import agreement
from cl.run.plan import make_plan

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
comm = connect(ranks.started()[0], 60.0)
odd = comm.rank == 1
CPU = torch.device("cpu")
sys.path.append(str(folder / "code"))
plan = make_plan(config)
train, test = plan.dataset.load(0)


def changed(**options) -> dict:
    """The configuration of rank 0, and on rank 1 one with other options, by their keys with __ for a dot."""
    own = copy.deepcopy(config)
    for key, value in options.items() if odd else ():
        *groups, name = key.split("__")
        node = own
        for group in groups:
            node = node[group]
        node[name] = value
    return own


def program(own: dict = config) -> str | None:
    try:
        agreement.check_program(comm, own, CPU)
    except ValueError as error:
        return str(error)


def data(change=None, split: Split = train) -> str | None:
    """What is said of the data, where `change` makes other columns of them on rank 1."""
    if change is not None and odd:
        x, y = change(split.x.clone() if isinstance(split.x, torch.Tensor) else split.x, split.y.clone())
        split = Split(x, y)
    try:
        agreement.check_data(comm, split, test, plan.scenario.split(split, test, 0), 0)
    except ValueError as error:
        return str(error)


def with_code(text: str) -> str | None:
    """Each rank has a module of its own under one name."""
    path = folder / "code" / f"rank_{comm.rank}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "helper.py").write_text(text)
    with mock.patch.object(sys, "path", [str(path), *sys.path]):
        return program(config | {"trust": ["helper"]})


def with_packages() -> str | None:
    real = agreement.metadata.version
    with mock.patch.object(
        agreement.metadata, "version", lambda name: "1.0" if odd and name == "numpy" else real(name)
    ):
        return program()


def with_threads() -> str | None:
    torch.set_num_threads(2 if odd else 1)
    said = program()
    torch.set_num_threads(1)
    return said


def streamed(changed_file: str | None) -> str | None:
    """Pictures in files, of which each rank has a copy; on rank 1 a byte of one is another."""
    own = folder / f"pictures_{comm.rank}" / ("deeper" * (comm.rank + 1))
    own.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(20)]
    for number, name in enumerate(names):
        (own / name).write_bytes(bytes([number, 1 if odd and name == changed_file else 0]))
    paths = np.array([str(own / name).encode() for name in names])
    pictures = FileImages(paths, Decoder(1, 8), Workers(0, 1, CPU))
    return data(split=Split(pictures, torch.arange(20) % 10))


def one_row_less(x, y):
    return x[:-1], y[:-1]


def other_label(x, y):
    y[700] = (y[700] + 1) % 10
    return x, y


def inverted_pixels(x, y):
    x[100:600] = 255 - x[100:600]
    return x, y


torch.set_num_threads(1)
said = {
    "equal": [program(), data(), with_code("x = 1"), streamed(None)],
    "what may differ": program(changed(output="/elsewhere", progress=True, logger__csv="another", loader__workers=0)),
    "configuration": program(changed(optimizer__lr=0.25, steps=7)),
    "seed": program(changed(seed=5)),
    "code": with_code(f"x = {comm.rank}"),
    "packages": with_packages(),
    "threads": with_threads(),
    "number": data(one_row_less),
    "labels": data(other_label),
    "pixels": data(inverted_pixels),
    "streams": streamed("7.png"),
    "equal again": [program(), data(), streamed(None)],
}
(folder / f"said_{comm.rank}.json").write_text(json.dumps(said))
leave()
