"""One rank of test_midtask_ranks.py: a whole run, one that dies within a stage and is started again, one without tests.

Prints nothing; the configuration is a JSON file, and rank 0 writes the folders of the runs.
"""

import json
import sys
from pathlib import Path

from cl.distributed import ranks
from cl.distributed.group import connect, disconnect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "run"))
from interrupted import interrupted, run  # noqa: E402

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
comm = connect(ranks.started()[0], config["timeout"])
whole = run(config | {"output": str(folder / "whole")})
again = interrupted(config | {"output": str(folder / "died")})
untested = run(config | {"output": str(folder / "untested"), "eval_every": None})
if comm.is_main:
    (folder / "folders.json").write_text(json.dumps(list(map(str, (whole, again, untested)))))
disconnect()
