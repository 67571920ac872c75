"""From budgets to settings: how much a row may store and how long it may train, solved from two short runs of it.

What a row stores grows with the number of its samples, and what it computes with its epochs, both in proportion but for
a constant. So two runs with few epochs say all that is needed, for a method of the user as for ours, and no formula has
to be kept in step with the code. What a row has really used is measured afterwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from merging.study.options import Budget, Options
from merging.study.rows import Facts, Row, fewest_samples, most_samples, samples_words
from merging.study.runs import Runs

LONG_TASK = 400  # steps of an epoch from which a part of an epoch tells its cost well enough
MOST_ROUNDED = 200  # thousandths of its epochs that a row may lose to whole steps
HARDLY = 0.002  # by how much it may be over its budget
FEW_STEPS = 100  # of both short runs together, with which it does not


class DoesNotFit(Exception):
    """Why a row cannot keep within its budget."""


@dataclass(frozen=True)
class Planned:
    """A row under a budget: the words of its run or merge, and of the run that a merge starts from, if it names one."""

    row: Row
    budget: Budget | None
    words: tuple[str, ...]
    base: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Stage:
    """What a stage of training needs: `steps` of an epoch, `passes` of a step, and a `constant` number of passes."""

    steps: float
    passes: float
    constant: float

    def needs(self, epochs: float) -> float:
        """Passes of so many epochs, which are a whole number of steps."""
        return self.constant + self.passes * max(1, round(epochs * self.steps))


class Planner:
    """Plans rows. `output`: the folder of short runs; `extra`: words that every run is given."""

    def __init__(self, options: Options, facts: Facts, runs: Runs, batch_size: int, values: dict, extra: Sequence[str]):
        self.options, self.facts, self.runs, self.extra = options, facts, runs, tuple(extra)
        self.values = values
        self.batch_size = batch_size
        self.long = facts.training_samples / facts.num_tasks / batch_size > LONG_TASK
        self.compute = options.passes * facts.training_samples

    async def plan(self, row: Row, budget: Budget | None, multiple: float = 1.0) -> Planned:
        """The row within its budgets; raises DoesNotFit, and RunError if a short run fails."""
        if row.once:
            return Planned(row, budget, row.words)
        stored = () if row.stores is None else samples_words(row, await self._count(row, budget), self.facts)
        if row.command == "run":
            return Planned(row, budget, (*row.words, *stored, *await self._epochs(row, row.words, stored, multiple)))
        if row.base is None:
            return Planned(row, budget, (*row.words, *stored, *await self._epochs_of_merge(row, stored)))
        _, merged = await self._probe(row, stored, 1)
        ours, merge = _shared_out(stored)
        epochs = await self._epochs(row, row.base, ours, 1, merged["merge_passes"])
        return Planned(row, budget, (*row.words, *merge), (*row.base, *ours, *epochs))

    async def _count(self, row: Row, budget: Budget) -> int:
        """How many samples the row may store."""
        facts, fewest = self.facts, fewest_samples(row, self.facts)
        guess = budget.samples or min(facts.training_samples, max(2 * fewest, 100))
        guess = max(guess, fewest)
        _, found = await self._probe(row, samples_words(row, guess, facts), 1)
        persistent = found["persistent"]
        whole = guess if row.stores == "buffer.capacity" else guess // facts.num_tasks * facts.num_tasks
        each = persistent["samples"] / whole
        if budget.bytes is None:
            room = budget.samples * facts.sample_bytes
        else:
            room = budget.bytes - (found["persistent_bytes"] - persistent["samples"])
        count = min(int(room / each + 1e-9), most_samples(row, facts)) if each else guess
        if count < fewest:
            needs = found["persistent_bytes"] - persistent["samples"] + fewest * each
            if budget.bytes is None:
                raise DoesNotFit(f"needs at least {fewest} samples")
            parts = (f"{name} {size / 1000:,.0f} kB" for name, size in persistent.items() if size and name != "samples")
            raise DoesNotFit(f"needs at least {needs / 1000:,.0f} kB: {', '.join(parts)}, and {fewest} samples")
        return count

    async def _epochs(
        self, row: Row, words: tuple[str, ...], stored: tuple[str, ...], multiple: float, spent: float = 0.0
    ) -> tuple[str, ...]:
        """The epochs of a run with which it, and what is `spent` besides, uses the compute budget."""
        few, more = (0.05, 0.25) if self.long else (1, 2)
        first, second = [await self._run(words, stored, level) for level in (few, more)]
        if self.long and second["gradient_steps"] - first["gradient_steps"] < FEW_STEPS * len(second["stage_passes"]):
            few, more = 1, 2  # it trains on fewer samples than there are, on its memory perhaps
            first, second = [await self._run(words, stored, level) for level in (few, more)]
        stages = []
        steps = [[stage["gradient_steps"] for stage in found["stage_costs"]] for found in (first, second)]
        for before, after, less, passes in zip(*steps, first["stage_passes"], second["stage_passes"]):
            a_step = (passes - less) / (after - before)
            stages.append(Stage(after / more, a_step, less - a_step * before))
        return (f"epochs={self._solved(multiple * self.compute - spent, stages, row):g}",)

    async def _epochs_of_merge(self, row: Row, stored: tuple[str, ...]) -> tuple[str, ...]:
        """The epochs of the task networks, and of what trains on stored samples."""
        facts, words = self.facts, ()
        _, first = await self._probe(row, stored, 1)
        constant, used = first["merge_passes"], 0.0
        if row.trains is not None:
            _, second = await self._probe(row, stored, 2)
            slope = second["merge_passes"] - first["merge_passes"]
            constant = first["merge_passes"] - slope
            used = row.share * self.compute - (constant if row.share == 1 else 0.0)
            words = (f"{row.trains}={self._solved(used, [Stage(slope, 1, 0)], row):g}",)
        epochs = row.network_epochs
        if epochs is None:
            steps = [math.ceil(count / self.batch_size) for count in facts.task_samples]
            stages = [Stage(number, count / number, 0) for number, count in zip(steps, facts.task_samples)]
            epochs = self._solved(self.compute - used - constant, stages, row)
        return (*words, f"epochs={epochs:g}")

    def _solved(self, passes: float, stages: Sequence[Stage], row: Row) -> float:
        """The most epochs with which these stages of training need no more passes; each has a whole number of steps."""
        room = passes - sum(stage.constant for stage in stages)
        if room <= 0:
            raise DoesNotFit(
                f"needs more than {self.compute:,.0f} passes before it has trained at all: {row.name} within this "
                "budget is not possible"
            )
        exact = room / sum(stage.steps * stage.passes for stage in stages)
        for less in range(MOST_ROUNDED):
            epochs = float(f"{exact * (1 - less / 1000):.4g}")
            if sum(stage.needs(epochs) for stage in stages) <= passes * (1 + HARDLY):
                return epochs
        return float(f"{exact:.4g}")

    async def _run(self, words: tuple[str, ...], stored: tuple[str, ...], level: float) -> dict:
        _, found = await self._short("run", (*words, *stored, f"epochs={level:g}"))
        return found

    async def _probe(self, row: Row, stored: tuple[str, ...], level: int) -> tuple[Path, dict]:
        """Folder and results of a short run of the row; `level`: the epochs of what the budget decides."""
        part = 0.05 if self.long and level == 1 else level
        if row.command == "run":
            return await self._short("run", (*row.words, *stored, f"epochs={part:g}"))
        if row.base is not None:
            ours, merge = _shared_out(stored)
            folder, _ = await self._short("run", (*row.base, *ours, f"epochs={part:g}"))
            return await self._short("merge", (*row.words, *merge), run=str(folder))
        trains = () if row.trains is None else (f"{row.trains}={level}",)
        return await self._short("merge", (*row.words, *stored, *trains, "steps=1"))

    async def _short(self, command: str, words: tuple[str, ...], **values) -> tuple[Path, dict]:
        self.runs.progress.expect(1)
        return await self.runs.result(command, (*words, *self.extra), **self.values, **values)


def _shared_out(stored: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the words on stored samples those of the run whose networks are merged, and those of the merge."""
    ours = tuple(word for word in stored if word.startswith("buffer."))
    return ours, tuple(word for word in stored if word not in ours)
