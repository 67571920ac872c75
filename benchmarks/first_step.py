"""Runs a command of remerge up to its first training step, and prints the modules that are loaded by then.

    python benchmarks/first_step.py run.py strategy=er dataset=mnist

The last line of the output is a JSON list. `benchmarks/startup.py` and `tests/run/test_start.py` use this script. It
replaces a method of the strategy's class when `Trainer.train` is called, so remerge needs no code for it.
"""

import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

TRAINER = "cl.run.trainer"


class _AtTheFirstStep:
    """An import hook that changes the trainer when it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), _stop_in(module.Trainer))
        return spec


def _stop_in(trainer) -> None:
    train = trainer.train

    def train_until_the_first_step(self, *arguments):
        type(self.strategy).observe = _stop
        return train(self, *arguments)

    trainer.train = train_until_the_first_step


def _stop(*_) -> None:
    print("\n" + json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    sys.meta_path.insert(0, _AtTheFirstStep())
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
