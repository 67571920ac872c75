"""One study, from its options to its page; read it from top to bottom.

Every row is an ordinary run or merge in its ordinary folder, so what is finished is not done again and a study that was
killed goes on. The short runs that solve for the budgets and the search of the learning rate lie in <output>/.study/.
"""

import asyncio
import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from cl.atomic import write_json
from cl.checksums import ENTRY, DamagedError, read_json
from cl.configuration.settings import MERGE_KEYS
from cl.jobs.pool import Pool
from cl.processors import processors
from cl.reporting import opening
from cl.reporting.loggers.several import Loggers
from cl.run.checks import check
from cl.run.folder import FEATURES, benchmark_name
from cl.run.lock import locked
from merging.choices import check_choices
from merging.study import record, worker
from merging.study.configurations import NO_LOGGER, Configurations
from merging.study.options import Budget, Options
from merging.study.planning import DoesNotFit, Planned, Planner
from merging.study.rows import Facts, Row, rows_of
from merging.study.runs import Progress, RunError, Runs
from merging.study.words import check_seeds, check_words, named

UNDECIDED = ("name", "seeds", "jobs")  # options that do not make another study
CLOSE_ENOUGH = 0.002  # of the held-out accuracy: joint training that is so near to the best has converged


class StudyIncomplete(ValueError):
    """Some runs of a study failed; the page is made of the others."""


def run(node: dict, own: Sequence[str], shared: Sequence[str], seeds: Sequence[int], folder: str | None = None) -> Path:
    """Do the study that `node` (conf/study/) describes, chosen by the words `own`; returns its folder.

    `shared`: the user's words for all rows, `folder`: that of the user's own options, if there is one. Raises
    ValueError or OSError for mistakes before anything runs, and StudyIncomplete at the end for runs that failed.
    """
    return asyncio.run(prepared(node, own, shared, seeds, folder).run())


def prepared(
    node: dict, own: Sequence[str], shared: Sequence[str], seeds: Sequence[int], folder: str | None = None
) -> "Study":
    """The same study, checked and not begun."""
    options = Options.read(node, folder)
    check_words(shared)
    check_seeds(seeds)
    configurations = Configurations(shared, folder)
    config = configurations.of("merge", (), quiet=False)
    check(config)
    check_choices(config)
    return Study(options, configurations, config, list(seeds), configurations.command("merge", own, seeds))


def _best(scores: dict, none: str) -> tuple:
    """The key with the highest score, of equal ones the smallest, and its score; raises RunError(none) without any."""
    found = sorted(key for key in scores if scores[key] is not None)
    if not found:
        raise RunError(none, diverged=True)
    best = max(found, key=scores.get)
    return best, scores[best]


class Study:
    """`config`: what its rows have in common, as merge.py would have it."""

    def __init__(self, options: Options, configurations: Configurations, config: dict, seeds: list[int], command: str):
        self.options, self.configurations, self.config, self.seeds = options, configurations, config, seeds
        self.command = command
        self.output = Path(config["output"])
        decides = {key: value for key, value in asdict(options).items() if key not in UNDECIDED}
        text = json.dumps([named(configurations.shared), decides], sort_keys=True, default=str)
        code = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.folder = self.output / benchmark_name(config) / f"{options.name}_{code}"
        self.scratch = NO_LOGGER | {"output": str(self.output / ".study")}  # of runs that are no rows
        self.logger = Loggers.of_config(config["logger"])  # raises ValueError for one that cannot work

    async def run(self) -> Path:
        """Plan, search, run, write."""
        # Two studies would train in the same folders.
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        opening.say(f"study {self.options.name} {opening.on_data(self.config, seeds)}", self.folder)
        with locked(self.output / ".study", "wait until that study ends, or choose output=FOLDER"):
            self._share_features()
            pool = Pool(self._jobs(None), modules=("merging.run",))
            try:
                self.facts = facts = await self._facts(pool)
                if facts.gpus is not None:
                    pool.close(at_once=False)
                    pool = Pool(self._jobs(facts.gpus), facts.gpus, ("merging.run",))
                done = await self._rows(pool)
            except BaseException:
                pool.close(at_once=True)
                raise
            pool.close(at_once=False)
            return self._write(done)

    def _share_features(self) -> None:
        """Features that short runs have computed serve the rows, too."""
        theirs = self.output / ".study" / FEATURES
        (self.output / FEATURES).mkdir(exist_ok=True)  # it may have been removed
        if not theirs.is_symlink() and not theirs.exists():
            theirs.symlink_to(Path("..") / FEATURES)

    async def _rows(self, pool: Pool) -> list[record.Done]:
        """All rows under all their budgets, at the same time."""
        rows = [(row, budget) for row in rows_of(self.options, self.facts) for budget in self._budgets(row)]
        expected = sum(self._expected(row) for row, _ in rows)
        progress = Progress(self.options.name, expected, self.config["progress"])
        self.runs = Runs(pool, self.configurations, progress)
        # A small network has one thread anyway; it is asked for only where it changes something.
        asked = self.options.threads != "auto" or not self.facts.small_network
        self.extra = (f"threads={self._threads}",) if asked else ()
        batch_size = self.config["batch_size"] * self.config["gradient_accumulation_steps"]
        short = self.scratch | {"seed": self.seeds[0]}
        self.planner = Planner(self.options, self.facts, self.runs, batch_size, short, self.extra)
        try:
            return await asyncio.gather(*(self._row(row, budget) for row, budget in rows))
        finally:
            progress.close()

    async def _facts(self, pool: Pool) -> Facts:
        """What the data and components are, found by a process that may import torch."""
        options, of = self.options, self.configurations.of
        names = {*options.fusions, *(("untrained", "last") if options.controls else ())}
        fusions = {
            name: of("merge", (f"fusion={name}", *options.words.get(name, ())))["fusion"] for name in sorted(names)
        }
        strategies = sorted({*options.strategies, *options.both})
        nodes = {name: of("run", (f"strategy={name}",))["strategy"] for name in strategies}
        memories = {name: node["memory"] for name, node in nodes.items()}
        base = {key: value for key, value in self.config.items() if key not in MERGE_KEYS}
        return Facts(**await pool.call(worker.facts, base, fusions, nodes), memories=memories)

    @property
    def _threads(self) -> int:
        return 1 if self.options.threads == "auto" else self.options.threads

    def _jobs(self, gpus: list[str] | None) -> int:
        """How many runs at a time."""
        if self.options.jobs != "auto":
            return self.options.jobs
        return max(1, processors() // self._threads) if gpus is None else len(gpus) or 1

    def _budgets(self, row: Row) -> list[Budget | None]:
        return [None] if row.every_budget else list(self.options.budgets)

    def _expected(self, row: Row) -> int:
        """How many runs a row has, beside the short ones."""
        search = self.options.search
        tries = 0
        if search is not None:
            tries = len(search.seeds) * (1 if row.once else len(search.factors) + len(row.multiples))
        return tries + len(self.seeds)

    async def _row(self, row: Row, budget: Budget | None) -> record.Done:
        """One row under one budget, with whatever befalls it."""
        done = record.Done(row, budget)
        try:
            planned = await self._searched(await self.planner.plan(row, budget), done)
        except (DoesNotFit, RunError) as error:
            if isinstance(error, DoesNotFit):
                done.why = str(error)
            else:
                done.failed = [(seed, str(error)) for seed in self.seeds]
            self.runs.progress.expect(-self._expected(row))
            return done
        words, base = self._final_words(planned, done.rate)
        done.command = self._command(planned, words, base)
        found = await asyncio.gather(*(self._final(planned, words, base, seed) for seed in self.seeds))
        for seed, result in zip(self.seeds, found):
            if isinstance(result, RunError):
                done.failed.append((seed, str(result)))
            else:
                done.runs.append(result)
        return done

    async def _searched(self, planned: Planned, done: record.Done) -> Planned:
        """The plan with the learning rate, and the number of passes, that did best on held-out data."""
        search, row = self.options.search, planned.row
        if row.once and search is not None:
            done.held_out = await self._held_out(planned, None)
            return planned
        if search is None:
            return await self.planner.plan(row, planned.budget, row.multiples[-1]) if row.multiples else planned
        rates = [float(f"{factor * self.facts.learning_rate:.6g}") for factor in search.factors]
        scores = await asyncio.gather(*(self._held_out(planned, rate) for rate in rates))
        done.tries = dict(zip(rates, scores))
        done.rate, done.held_out = _best(done.tries, "training diverged with every learning rate of the search")
        if not row.multiples:
            return planned
        plans = [await self.planner.plan(row, planned.budget, multiple) for multiple in row.multiples]
        scores = await asyncio.gather(*(self._held_out(plan, done.rate) for plan in plans))
        _, best = _best(dict(enumerate(scores)), "training diverged with every number of passes")
        chosen = next(i for i, score in enumerate(scores) if score is not None and score >= best - CLOSE_ENOUGH)
        done.held_out, done.multiple = scores[chosen], row.multiples[chosen]
        return plans[chosen]

    async def _held_out(self, planned: Planned, rate: float | None) -> float | None:
        """The mean accuracy on held-out data with a learning rate; None if training diverged with it."""
        words, base = self._final_words(planned, rate)
        search = self.options.search
        values = self.scratch | {"dataset.validation": search.validation}
        tries = (self._do(planned, words, base, values | {"seed": seed}) for seed in search.seeds)
        results = await asyncio.gather(*tries, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not (isinstance(result, RunError) and result.diverged):
                raise result
        if any(isinstance(result, RunError) for result in results):
            return None
        return statistics.fmean(record.accuracy(content) for _, content in results)

    async def _final(self, planned: Planned, words, base, seed: int) -> tuple[Path, dict] | RunError:
        try:
            return await self._do(planned, words, base, {"seed": seed})
        except RunError as error:
            self.runs.progress.failed()
            return error

    async def _do(self, planned: Planned, words, base, values: dict) -> tuple[Path, dict]:
        """A run or merge; a merge of a run's networks after that run."""
        if base is not None:
            folder, _ = await self.runs.result("run", base, **values)
            self.runs.progress.expect(1)
            values = values | {"run": str(folder)}
        return await self.runs.result(planned.row.command, words, **values)

    def _final_words(self, planned: Planned, rate: float | None) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        more = () if rate is None else (f"optimizer.lr={rate:g}",)
        if planned.base is None:
            return (*planned.words, *more, *self.extra), None
        return (*planned.words, *self.extra), (*planned.base, *more, *self.extra)

    def _command(self, planned: Planned, words, base) -> str:
        """The command lines that repeat a row."""
        if base is None:
            last = ("baselines=[]",) if planned.row.command == "merge" else ()
            return self.configurations.command(planned.row.command, (*words, *last), self.seeds)
        folder = self.configurations.folder("run", base).parent
        merge = (*words, f"run={folder}/seed${{seed}}", "baselines=[]")
        commands = [("run", base), ("merge", merge)]
        return "\n".join(self.configurations.command(command, words, self.seeds) for command, words in commands)

    def _known(self) -> dict | None:
        """What the study said when it was done before; None if it was not."""
        path = self.folder / "study.json"
        try:
            return {key: value for key, value in read_json(path).items() if key != ENTRY} if path.is_file() else None
        except DamagedError:  # it is written anew
            return None

    def _write(self, rows: list[record.Done]) -> Path:
        from cl.reporting.page import page  # imports scipy, which the first line does not wait for

        content = record.content(self.options, self.config, self.facts, rows, self.seeds, self.folder, self.command)
        known = self._known()
        write_json(self.folder / "study.json", content)
        page.write(self.folder, content)
        if known != json.loads(json.dumps(content)):
            with closing(self.logger):
                self.logger.start(self.folder, self.config | {"study": asdict(self.options)}, "study")
                self.logger.finish(content)
        failed: dict[str, list[int]] = {}
        for done in rows:
            for seed, error in done.failed:
                failed.setdefault(f"{done.title}: {error}", []).append(seed)
        for line, seeds in failed.items():
            print(f"failed (seed {', '.join(map(str, seeds))}) {line}", file=sys.stderr)
        if failed:
            count = sum(map(len, failed.values()))
            raise StudyIncomplete(
                f"{count} runs of this study failed, see above; its page is made of the others, and the same command "
                "tries them again"
            )
        return self.folder
