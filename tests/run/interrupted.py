"""A run that dies within a stage, some steps after its state was saved, and is started again."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from omegaconf import OmegaConf

from cl.run import experiment
from cl.run.saving import Saver

STAGE, STEP = 1, 3  # of the newest state when it dies
LATER = 2  # steps between that and its death


class Died(Exception):
    """In place of what ends a process."""


def dying(at: Callable[[int, int], bool]):
    """A context in which a run dies after the step of a stage for which `at` is true."""
    within = Saver.within

    def doomed(self, stage: int, steps: int, name: str):
        after_step = within(self, stage, steps, name)

        def die(step: int) -> None:
            after_step(step)
            if at(stage, step):
                raise Died

        return die

    return mock.patch.object(Saver, "within", doomed)


def run(config: dict) -> Path:
    """Its folder."""
    return experiment.run(OmegaConf.create(config))


def interrupted(config: dict) -> Path:
    """The folder of a run that has died and was started again."""
    torch.manual_seed(99)  # another process has other generators
    config = config | {"checkpoint": config["checkpoint"] | {"every": STEP}}
    with dying(lambda stage, step: (stage, step) == (STAGE, STEP + LATER)):
        try:
            run(config)
            raise AssertionError("the run did not die")
        except Died:
            pass
    torch.manual_seed(98)
    return run(config)
