"""What a run leaves behind, to compare two runs: to the bit, and without times."""

import csv
import json
from pathlib import Path

import torch

TIMES = (
    "train_seconds", "eval_seconds", "replay_wait_seconds", "peak_memory_bytes", "stage_costs", "samples_per_second",
    "files",
)  # fmt: skip


def outcome(folder: Path) -> dict:
    """All that a run leaves behind, without times."""
    found = {path.name: torch.load(path)["model"] for path in folder.glob("task_*.pt")}
    results = json.loads((folder / "results.json").read_text())
    found["results"] = {key: value for key, value in results.items() if key not in (*TIMES, "config", "checksum")}
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    found["rows"] = [{key: row[key] for key in ("stage", "epoch", "step", "loss", "learning_rate")} for row in rows]
    found["files"] = sorted(path.name for path in folder.iterdir())
    return found


def assert_same(one, other, where: str = "") -> None:
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
