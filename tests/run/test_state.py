"""The state tree holds all that a run needs: stopped within a stage and built anew, it ends with the same bits."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from cl.run import training
from cl.run.experiment import equip, make_evaluator
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.run.state import StateTree
from cl.run.training import Training

STAGE, STEP = 1, 3  # where the run is stopped


class Stopped(Exception):
    """In place of what ends a process."""


@pytest.fixture
def words(tmp_path) -> list[str]:
    """Twelve colour pictures of each of four classes, for a network with dropout, with augmentation and momentum."""
    random = np.random.default_rng(0)
    for part, name, number in itertools.product(("train", "test"), "abcd", range(12)):
        folder = tmp_path / "pictures" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return [
        "dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}", f"dataset.cache={tmp_path / 'cache'}",
        "dataset.size=12", "dataset.augment=[crop,flip]", "scenario=class2", "backbone=mnistnet", "batch_size=4",
        "optimizer=sgd", "optimizer.momentum=0.9", "schedule=cosine", "epochs=2", "buffer.capacity=10",
        "progress=false", "pictures=[]",
    ]  # fmt: skip


@dataclass
class Made:
    """A run before its training."""

    session: Session
    training: Training
    tasks: object
    buffer: object


def made(session: Session) -> Made:
    tasks, num_training = session.load_tasks()
    buffer, capacity = session.make_buffer(num_training)
    equip(session, buffer, capacity)
    return Made(session, Training(session, tasks, buffer, make_evaluator(session, tasks)), tasks, buffer)


def weights_of(session: Session) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in session.model.state_dict().items()}


STRATEGIES = {
    "finetune": [],
    "er": ["strategy.replay_batch_size=2", "mixing.cutmix=1.0"],
    "derpp": ["strategy.replay_batch_size=2", "buffer=reference"],
    "der": ["strategy.replay_batch_size=2", "gradient_accumulation_steps=2", "batch_size=2"],
    "er_ace": ["strategy.replay_batch_size=2", "buffer.sampling=class_balanced"],
    "agem": ["strategy.replay_batch_size=4"],
    "ewc": [],
    "si": [],
    "lwf": ["strategy.warmup_steps=5"],
    "gdumb": [],
    "icarl": [],
    "scratch": [],
    "independent": [],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_stopped_within_a_stage_goes_on_with_the_same_bits(
    compose_config, monkeypatch, tmp_path, words, strategy
):
    config = plain(compose_config(*words, f"strategy={strategy}", *STRATEGIES[strategy]))
    with Session(make_plan(config)) as session:
        whole = made(session)
        whole.training.run()
        expected, history = weights_of(session), whole.training.history
        steps = whole.training.trainer.step
    assert steps > STEP + 1

    saved = tmp_path / "saved"
    saved.mkdir()

    def stop(run: Made) -> None:
        trainer = run.training.trainer
        if (trainer.stage, trainer.step) == (STAGE, STEP):
            state = {"shared": run.training.tree.shared_state(), "own": run.training.tree.own_state()}
            torch.save(state, saved / "state.pt")
            for name, part in run.training.tree.stored.items():
                part.save(saved / name)
            raise Stopped

    with Session(make_plan(config | {"overwrite": True, "output": str(tmp_path / "stopped")})) as session:
        run = made(session)

        class Watched(training.Progress):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.step = lambda: stop(run)

        with monkeypatch.context() as patch:
            patch.setattr(training, "Progress", Watched)
            with pytest.raises(Stopped):
                run.training.run()
        assert any(not torch.equal(expected[name], value) for name, value in weights_of(session).items())

    torch.manual_seed(99)  # another process has other generators
    with Session(make_plan(config | {"output": str(tmp_path / "resumed")})) as session:
        run = made(session)
        state = torch.load(saved / "state.pt", weights_only=True)
        run.training.tree.load(state["shared"], state["own"])
        for name, part in run.training.tree.stored.items():
            part.load(saved / name)
        session.model.train()
        strategy, trainer = session.plan.strategy, run.training.trainer
        training_set = strategy.training_set(STAGE, run.tasks.training(session.plan.stages[STAGE]))
        loss = trainer.train(training_set, STAGE, steps)
        run.training._finish(STAGE, run.tasks.training(session.plan.stages[STAGE]), loss)
        assert trainer.step == steps
        resumed = weights_of(session)
        for name, value in expected.items():
            assert torch.equal(resumed[name], value), name
        assert run.training.history.rows == history.rows
        assert run.training.history.gradient_steps == history.gradient_steps
        assert run.training.history.labelled_samples == history.labelled_samples


def test_a_state_of_other_parts_is_refused():
    class Part:
        def state_dict(self):
            return {"n": 1}

        def load_state_dict(self, state):
            self.n = state["n"]

    old, new = StateTree(), StateTree()
    old.register("network", Part())
    for name in ("network", "later"):
        new.register(name, Part())
    with pytest.raises(ValueError, match="holds the state of network, and this run has network, later: .*overwrite"):
        new.load(old.shared_state(), {})
    with pytest.raises(AssertionError, match="later is registered twice"):
        new.register("later", Part(), own=True)
