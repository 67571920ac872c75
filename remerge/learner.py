"""A strategy stepped by hand: the parts of a run, with a loop of one's own around the steps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cl.data.rows import Rows
from cl.run.experiment import equip, make_evaluator
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.run.training import Training
from remerge.words import configuration, words_of


class Learner:
    """The strategy of a configuration with its network, optimizer, memory and tasks; nothing is written to disk.

        with Learner("strategy=er", "scenario=class5", seed=0) as learner:
            for stage in range(len(learner.stages)):
                for batch in learner.batches(stage):
                    loss = learner.step(batch)
                print(learner.finish())

    The numbers are those of `remerge.run` with the same words. Words and values as there. One process; raises
    ValueError for mistakes. `close`, or the end of the `with` block, frees the memory and sets torch's threads back.
    """

    def __init__(self, *words: str, config_dir: str | Path | None = None, **values):
        config = plain(configuration("run", words_of(words, {"progress": False, "logger": "csv"} | values), config_dir))
        plan = make_plan(config)
        if plan.strategy.needs_start:
            raise ValueError(plan.strategy.needs_start)
        self._session = Session(plan).__enter__()
        try:
            self._begin()
        except BaseException as error:
            self._session.__exit__(type(error), error, error.__traceback__)
            raise

    def _begin(self) -> None:
        session = self._session
        tasks, num_training = session.load_tasks()
        buffer, capacity = session.make_buffer(num_training)
        equip(session, buffer, capacity)
        self._training = Training(session, tasks, buffer, make_evaluator(session, tasks))
        self._training.history.start(*self._training.evaluator(session.model))
        session.model.train()
        self._stage: int | None = None

    @property
    def stages(self) -> list[list[int]]:
        """The tasks whose data each stage of training uses."""
        return self._training.stages

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self._session.model

    @property
    def strategy(self):
        """The strategy (`cl.strategies.base.Strategy`), whose `buffer` is the memory and `updater` the optimizer."""
        return self._training.strategy

    @property
    def accuracy_matrix(self) -> np.ndarray:
        """[stages that are finished, tasks] float64: accuracies, or errors."""
        return np.array(self._training.history.rows)

    def batches(self, stage: int) -> Iterator[Rows]:
        """The batches of a stage, as a run has them: `batch["x"]` raw pictures, `batch["y"]` labels.

        Stages come in order, each once. Raises ValueError for another one.
        """
        training = self._training
        if self._stage is not None or stage != len(training.history.rows):
            raise ValueError(
                f"stage {stage} cannot begin: stage {len(training.history.rows)} is next"
                + (", and finish() ends the one that has begun" if self._stage is not None else "")
            )
        return self._batches(stage)

    def _batches(self, stage: int) -> Iterator[Rows]:
        training, trainer = self._training, self._training.trainer
        samples = training.tasks.training(training.stages[stage]).to(self._session.device)
        training.prepare(stage, samples)
        chosen = training.strategy.training_set(stage, samples)
        self._stage, self._samples = stage, samples
        trainer.start(stage)
        trainer.ordered, steps = training.keeps_order(stage, samples, chosen), training.steps(stage, len(chosen))
        training.average_over(steps)
        for _, batch in trainer.batches(chosen, stage, steps):
            before = trainer.step
            yield batch
            if trainer.step != before + 1:
                raise ValueError(f"each batch is for one step(batch), got {trainer.step - before} of them")

    def step(self, batch: Rows) -> torch.Tensor:
        """One optimizer step on a batch of `batches`; returns the loss, a tensor on the device."""
        if not isinstance(batch, Rows):
            raise ValueError(
                f"step takes the batches of learner.batches(stage), got {type(batch).__name__}; pairs of pictures and "
                "labels, as tasks have them, are for a loop of your own with remerge.ReplayBuffer"
            )
        trainer = self._training.trainer
        loss = trainer.strategy.observe(batch)
        trainer.step += 1
        if trainer.each_step is not None:
            trainer.each_step()
        return loss

    def finish(self) -> list[float]:
        """End the stage, and test: the accuracy in [0, 1], or the error, on each task."""
        if self._stage is None:
            raise ValueError("no stage has begun: take its batches first")
        stage, self._stage = self._stage, None
        row = self._training.finish(stage, self._samples)
        self._session.model.train()
        return row

    def close(self) -> None:
        """Free what is open; a second call does nothing."""
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(None, None, None)

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *error) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(*error)
