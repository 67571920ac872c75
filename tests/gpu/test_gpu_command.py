"""`make gpu` writes one file of figures and one table; its parts run here on the CPU with a tiny network."""

import json
import subprocess
import sys

from support import ROOT


def test_all_parts_run_on_the_cpu(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--device=cpu", "--tiny", "--no-tests", "--minutes=30"]
    command.append(f"--out={tmp_path}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["device"] == "cpu" and content["torch"]
    assert set(content["parts"]) == {"ranks", "training", "replay", "precision", "seeds"}
    assert all(part["rows"] and part["seconds"] > 0 for part in content["parts"].values())
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("|") > 20 and "mlp 16x16 batch 4 fp32" in table and table in done.stdout
    assert "two ranks" in table and "in pinned memory" in table and "| 3, derpp |" in table
