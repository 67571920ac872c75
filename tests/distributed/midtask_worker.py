"""One rank of test_midtask_ranks.py: whole runs, each once more, dying within a stage, and without tests within stages.

Prints nothing; the configurations are in a JSON file, and rank 0 writes the folders of the runs of each.
"""

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "run")]
from interrupted import interrupted, run  # noqa: E402

from cl.distributed import ranks  # noqa: E402
from cl.distributed.group import connect  # noqa: E402
from cl.distributed.leaving import leave  # noqa: E402

folder = Path(sys.argv[1])
configs = json.loads((folder / "configs.json").read_text())
comm = connect(ranks.started()[0], configs[0]["timeout"])
found = []
for config in configs:
    whole = run(config | {"output": str(folder / "whole")})
    again = interrupted(config | {"output": str(folder / "died")})
    untested = (
        whole
        if config["eval_every"] is None
        else run(config | {"output": str(folder / "untested"), "eval_every": None})
    )
    found.append(list(map(str, (whole, again, untested))))
if comm.is_main:
    (folder / "folders.json").write_text(json.dumps(found))
leave()
