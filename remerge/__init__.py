"""remerge: rehearsal and merging, two ways to keep a network from forgetting, in one suite.

    import remerge

    run = remerge.run("strategy=er", "scenario=class5", seed=0)
    run.average_accuracy, run.accuracy_matrix, run.networks[-1], run.folder

Words are those of the command line (docs/configuration.md), in the same order and with the same meaning: what one has
trained, the other finds. torch is imported when something is trained.
"""

import importlib
from typing import TYPE_CHECKING

from cl import __version__ as __version__

if TYPE_CHECKING:
    from remerge.buffer import ReplayBuffer as ReplayBuffer
    from remerge.doing import merge as merge
    from remerge.doing import run as run
    from remerge.doing import study as study
    from remerge.doing import sweep as sweep
    from remerge.frames import load as load
    from remerge.learner import Learner as Learner
    from remerge.results import Run as Run
    from remerge.results import Runs as Runs
    from remerge.results import SweepFailed as SweepFailed
    from remerge.tasks import scenario as scenario

PLACES = {
    "run": "doing", "merge": "doing", "study": "doing", "sweep": "doing", "load": "frames", "Run": "results",
    "Runs": "results", "SweepFailed": "results", "scenario": "tasks", "ReplayBuffer": "buffer", "Learner": "learner",
}  # fmt: skip
__all__ = [*PLACES, "__version__"]


def __getattr__(name: str):
    if name not in PLACES:
        raise AttributeError(f"remerge has no {name!r}; it has {', '.join(sorted(PLACES))}")
    found = getattr(importlib.import_module(f"remerge.{PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
