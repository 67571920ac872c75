"""metrics.csv, strategy_metrics.csv, anytime.csv: rows that are appended as training goes, and the checksum of those.

The checksum of the rows is in the checkpoint of a run, and in its results.json in the end. A resumed run takes up the
rows that its checkpoint speaks of and cuts off the others, which it repeats. Needs no torch.
"""

import csv
import io
import os
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from cl.atomic import atomic_write
from cl.checksums import DamagedError

METRIC_COLUMNS = (
    "stage", "epoch", "step", "loss", "learning_rate", "samples_per_second", "replay_wait_seconds", "buffer_records",
)  # fmt: skip
STRATEGY_COLUMNS = ("stage", "epoch", "step", "name", "value")
TEST_COLUMNS = ("stage", "step", "so_far")
State = dict[str, dict[str, int]]  # name of a file -> its "bytes" so far, and the "crc32" of these


class MetricsFile:
    """metrics.csv, a row per interval; a failed write leaves whole rows only.

    What a strategy logs goes to strategy_metrics.csv beside it, a row per name, if it logs anything. Tests at intervals
    go to anytime.csv, if there are any.
    """

    def __init__(self, path: Path, kept: State | None = None):
        """Goes on after what `kept`, an earlier `state_dict`, says of the files; None starts again.

        Raises DamagedError for rows that are not those that were written.
        """
        self.metrics = _Table(path, METRIC_COLUMNS)
        self.logged = _Table(path.with_name(f"strategy_{path.name}"), STRATEGY_COLUMNS)
        self.tests = _Table(path.with_name("anytime.csv"), TEST_COLUMNS)
        kept = kept or {}
        self.metrics.start(kept.get(path.name))
        for table in (self.logged, self.tests):
            if kept_rows := kept.get(table.path.name):
                table.start(kept_rows)
            else:
                table.path.unlink(missing_ok=True)  # of a run that begins again

    def append(self, row: dict) -> None:
        assert tuple(row) == METRIC_COLUMNS, tuple(row)
        self.metrics.append([row.values()])

    def append_logged(self, row: dict, logged: dict[str, float]) -> None:
        """What the strategy has logged in the interval of `row`."""
        if not logged:
            return
        if not self.logged.bytes:
            self.logged.start(None)
        place = [row[name] for name in STRATEGY_COLUMNS[:3]]
        self.logged.append([[*place, name, value] for name, value in logged.items()])

    def append_test(self, row: list) -> None:
        """A test: the stage, the number of steps so far and what was measured."""
        if not self.tests.bytes:
            self.tests.start(None)
        self.tests.append([row])

    def state_dict(self) -> State:
        """The rows so far, which are on disk then: a checkpoint may outlive a crash of the system."""
        return {table.path.name: table.state() for table in (self.metrics, self.logged, self.tests) if table.bytes}


def changed_files(folder: Path, files: State) -> list[Path]:
    """The files of a finished run whose rows are not those that `files`, of its results.json, speaks of.

    A file that was removed is none. Spreadsheets save other ends of lines, for example.
    """
    there = {folder / name: kept for name, kept in files.items() if (folder / name).is_file()}
    return [path for path, kept in there.items() if _read(path, kept) != path.read_bytes()]


class _Table:
    """One file: a heading and rows."""

    def __init__(self, path: Path, columns: tuple[str, ...]):
        self.path, self.heading = path, ",".join(columns) + "\n"
        self.bytes = self.crc32 = 0

    def start(self, kept: dict[str, int] | None) -> None:
        """Leave the rows that `kept` speaks of, or a heading alone."""
        content = self.heading.encode()
        if kept is not None and self.path.is_file():
            content = _read(self.path, kept)
            if content is None:
                raise _damaged(
                    self.path,
                    "put a whole copy in its place, or remove it, and the run goes on without its rows so far",
                )
        elif kept is not None:
            print(f"{self.path} is missing: its rows begin where the run goes on", file=sys.stderr)
        with atomic_write(self.path) as file:
            file.write(content)
        self.bytes, self.crc32 = len(content), zlib.crc32(content)

    def append(self, rows: Iterable[Iterable]) -> None:
        """Some rows, whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
        content = text.getvalue().encode()
        try:
            with open(self.path, "ab", buffering=0) as file:  # a buffer would write once more what has failed
                end, rest = file.tell(), memoryview(content)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.bytes, self.crc32 = self.bytes + len(content), zlib.crc32(content, self.crc32)

    def state(self) -> dict[str, int]:
        if self.path.is_file():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
        return {"bytes": self.bytes, "crc32": self.crc32}


def _read(path: Path, kept: dict[str, int]) -> bytes | None:
    """The first `bytes` of a file, None if they are not there or do not have their checksum."""
    with open(path, "rb") as file:
        content = file.read(kept["bytes"])
    return content if (len(content), zlib.crc32(content)) == (kept["bytes"], kept["crc32"]) else None


def _damaged(path: Path, remedy: str) -> DamagedError:
    return DamagedError(f"{path} is damaged (its rows are not those that were written): {remedy}")
