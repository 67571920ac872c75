"""Reads the files that wandb writes, with its own messages.

A .wandb file is a log of LevelDB (doc/log_format.md there) with a header of 7 bytes: blocks of 32 kB, in which each
fragment has a checksum, a length and a kind: whole, first, middle or last.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

BLOCK, WHOLE, FIRST, LAST = 32768, 1, 2, 4


@dataclass
class Told:
    """What a run of wandb holds: its settings, its rows in order, its summary, axes (glob -> axis) and artifacts."""

    run: object = None
    rows: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    status: int | None = None  # the exit status

    def series(self, name: str, axis: str) -> list[tuple]:
        return [(row[axis], row[name]) for row in self.rows if name in row]


def parts(content: bytes):
    """The records as bytes."""
    place, begun = 7, b""
    while place + 7 <= len(content):
        room = BLOCK - place % BLOCK
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if kind == 0:
            return
        begun = (b"" if kind in (WHOLE, FIRST) else begun) + content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            yield begun


def read(path: Path) -> Told:
    """One offline run, from its folder or its file."""
    from wandb.proto import wandb_internal_pb2

    (file,) = [path] if path.is_file() else path.glob("*.wandb")
    content, told = file.read_bytes(), Told()
    assert content[:4] == b":W&B"
    for part in parts(content):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(part)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told.run = record.run
        elif kind == "history":
            told.rows.append(_items(record.history.item))
        elif kind == "summary":
            told.summary |= _items(record.summary.update)
        elif kind == "metric":
            told.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "artifact":
            told.artifacts.append(record.artifact)
        elif kind == "exit":
            told.status = record.exit.exit_code
    return told


def offline(folder: Path) -> list[Told]:
    """The offline runs in the folder of a run, in their order."""
    return [read(path) for path in sorted(folder.glob("wandb/offline-run-*"))]


def _items(items) -> dict:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
