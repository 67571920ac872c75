"""A logger of your own: each row and each test as a line of JSON, in the run's folder.

PYTHONPATH=docs/examples python run.py --config-dir docs/examples/conf logger=[csv,my_logger] trust=[my_logger]
"""

import json

from cl.reporting.loggers.base import Logger
from cl.values import Count


class JsonLines(Logger):
    def __init__(self, every: Count = 1):
        self.every, self.rows, self.bytes, self.file = every, 0, 0, None

    def start(self, folder, config, kind):
        path = folder / "rows.jsonl"
        path.touch()
        self.file = path.open("r+")
        self.file.truncate(self.bytes)  # a resumed run repeats what came after its checkpoint
        self.file.seek(self.bytes)

    def log_training(self, step, values):
        self.rows += 1
        if self.rows % self.every == 0:
            self.write({"step": step, **values})

    def log_test(self, stage, values):
        self.write({"stage": stage, **values})

    def finish(self, results):
        self.write({"average_accuracy": results["average_accuracy"]})

    def close(self):
        if self.file is not None:
            self.file.close()

    def state_dict(self):
        return {"rows": self.rows, "bytes": self.bytes}

    def load_state_dict(self, state):
        self.rows, self.bytes = state["rows"], state["bytes"]

    def write(self, values):
        line = json.dumps(values) + "\n"
        self.file.write(line)
        self.file.flush()
        self.bytes += len(line.encode())
