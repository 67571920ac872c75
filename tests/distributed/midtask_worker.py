"""One rank of test_midtask_ranks.py: a whole run, one that is stopped within a stage, and one that goes on from there.

Prints nothing; the configuration is a JSON file, and what was found goes into a file for each rank.
"""

import json
import sys
from pathlib import Path

import torch

from cl.distributed import ranks
from cl.distributed.group import connect, disconnect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "run"))
from interrupted import resumed, stopped, whole  # noqa: E402

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
started = ranks.started()
comm = connect(started[0], timeout=60)
expected, history, steps = whole(config | {"output": str(folder / "whole")})
halfway = stopped(config | {"output": str(folder / "stopped")}, folder / "saved")
comm.gather(None)  # the states of all ranks are there
weights, found = resumed(config | {"output": str(folder / "resumed")}, folder / "saved", steps)
result = {"expected": expected, "halfway": halfway, "weights": weights, "rows": [history["rows"], found["rows"]]}
torch.save(result, folder / f"result_{comm.rank}.pt")
disconnect()
