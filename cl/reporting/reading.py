"""Reads results.json of finished runs and merges. Needs no torch."""

from pathlib import Path

from cl.checksums import read_json

REMEDY = "put a whole copy in its place, or repeat its command with overwrite=true"


def read_results(path: Path, what: str | None = None) -> dict:
    """The content of a results.json; `what` names it in errors. Raises DamagedError, OSError if it cannot be read."""
    return read_json(path, what, REMEDY)
