"""A run that is stopped within a stage and built anew from the states of its parts; for one rank or several."""

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from cl.buffers.base import ReplayBuffer
from cl.run import training
from cl.run.experiment import equip, make_evaluator
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.run.training import Training
from cl.scenarios.base import Tasks

STAGE, STEP = 1, 3  # where it is stopped


class Stopped(Exception):
    """In place of what ends a process."""


@dataclass
class Made:
    """A run before its training."""

    session: Session
    training: Training
    tasks: Tasks
    buffer: ReplayBuffer | None


def made(session: Session) -> Made:
    tasks, num_training = session.load_tasks()
    buffer, capacity = session.make_buffer(num_training)
    equip(session, buffer, capacity)
    return Made(session, Training(session, tasks, buffer, make_evaluator(session, tasks)), tasks, buffer)


def weights_of(run: Made) -> dict[str, torch.Tensor]:
    """Those of the network, and of the average where there is one."""
    found = {name: value.clone() for name, value in run.session.model.state_dict().items()}
    average = {} if run.training.average is None else run.training.average.network.state_dict()
    return found | {f"average.{name}": value.clone() for name, value in average.items()}


def whole(config: dict) -> tuple[dict, dict, int]:
    """Weights, history and steps of the last stage of a run that nothing stops."""
    with Session(make_plan(config)) as session:
        run = made(session)
        run.training.run()
        return weights_of(run), run.training.history.state_dict(), run.training.trainer.step


def stopped(config: dict, saved: Path) -> dict:
    """The weights of a run where it stopped; the states of its parts are then in the folder `saved`, by rank."""
    saved.mkdir(exist_ok=True)
    with Session(make_plan(config)) as session:
        run = made(session)
        trainer, tree, rank = run.training.trainer, run.training.tree, session.comm.rank

        def stop() -> None:
            if (trainer.stage, trainer.step) != (STAGE, STEP):
                return
            torch.save({"shared": tree.shared_state(), "own": tree.own_state()}, saved / f"state_{rank}.pt")
            for name, part in tree.stored.items():
                part.save(saved / f"{name}_{rank}")
            raise Stopped

        class Watched(training.Progress):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.step = stop

        with mock.patch.object(training, "Progress", Watched):
            try:
                run.training.run()
            except Stopped:
                return weights_of(run)
    raise AssertionError("the run was not stopped")


def resumed(config: dict, saved: Path, steps: int) -> tuple[dict, dict]:
    """Weights and history after the stage, of a run that is built anew; shared states are those that rank 0 saved."""
    torch.manual_seed(99)  # another process has other generators
    with Session(make_plan(config)) as session:
        run = made(session)
        tree, comm = run.training.tree, session.comm
        states = [torch.load(saved / f"state_{rank}.pt", weights_only=True) for rank in range(comm.size)]
        tree.load(states[0]["shared"], states[comm.rank]["own"])
        for name, part in tree.stored.items():
            part.load(*(saved / f"{name}_{rank}" for rank in range(comm.size)))
        session.model.train()
        samples = run.tasks.training(session.plan.stages[STAGE])
        training_set = session.plan.strategy.training_set(STAGE, samples)
        loss = run.training.trainer.train(training_set, STAGE, steps)
        run.training._finish(STAGE, samples, loss)
        return weights_of(run), run.training.history.state_dict()
