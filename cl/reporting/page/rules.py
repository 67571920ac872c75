"""What a page says of its own making: how memory and compute are counted, the rules of the answer and of statistics."""

from cl.reporting.page import text
from cl.reporting.page.answer import SCHOOLS, chosen_from
from cl.reporting.page.cells import EDGE, at_edge
from cl.reporting.page.comparison import Table
from cl.reporting.page.schools import FEATURES, REHEARSAL
from cl.reporting.page.study import Row, Study
from cl.versions import made_with

MEMORY = (
    "Memory (kept kB, 1 kB = 1000 bytes) is what has to be kept after the last task if another one came: networks, the "
    "common start where a fusion needs it, stored samples with their labels and outputs, and statistics such as "
    "importances, class means and Gram or Fisher matrices. The optimizer's state is not in it and has its own column."
)
PASS = (
    "A pass is a forward and a backward pass of one sample; a forward pass alone counts as a third of one, because a "
    "backward pass costs about two forward ones. Passes are counted over all that a row needed: its networks and its "
    "fusion, also where that chooses on held-out data, with labels and without. Tests on the test set are not counted."
)
FLOPS = "FLOPs are those of matrix products and convolutions in these passes."
SECONDS = (
    "Seconds of training are those of the clock: where other runs shared the processors at the same time, they say "
    "little of what a method costs."
)
BETTER = (
    "One is called better if the paired t test over the seeds gives p < 0.05 after Holm's correction over the budgets "
    "of one question; else no difference could be shown. In the tables the correction is over the rows of a table, so "
    "the same two rows can have another p there. Two rows that stand for several budgets are one test. Intervals are "
    "95 % intervals of the mean difference, each by itself."
)
LUCK = "A row with a failed seed represents no school and is not the best row: the seeds that are left may be lucky."
CONVERGENCE = "to convergence"  # ends the names of rows that also try longer trainings


def counted(study: Study) -> list[str]:
    """How costs are counted."""
    search = study.search
    if search is None:
        return [MEMORY, PASS, FLOPS, SECONDS]
    more = f"The search of learning rates is not counted: {_tries(search)} more trainings for each row"
    more += ", and for one trained to convergence also those of other lengths." if _converged(study) else "."
    return [MEMORY, f"{PASS} {more}", FLOPS, SECONDS]


def edge(study: Study) -> str:
    """What the mark of a learning rate means, with a space after it; nothing where no row has it."""
    if not any(at_edge(study, row) for row in study.rows):
        return ""
    return f"{EDGE}: the lowest or highest learning rate that was tried; a better one may lie beyond it. "


def _tries(search: dict) -> int:
    return len(search["rates"]) * len(search["seeds"])


def _converged(study: Study) -> bool:
    return any(row.name.endswith(CONVERGENCE) for row in study.rows)


def spare_networks(tables: list[Table]) -> str | None:
    """What the networks of a merge would be worth in stored samples, by the numbers of the rows; None if unknown."""
    for table in tables:
        rows = [line.row for line in table.lines]
        prices = (_sample_bytes(row) for row in rows if row.school == REHEARSAL)
        price = min(filter(None, prices), default=None)  # some store logits as well
        single = table.reference and table.reference.persistent("networks")
        merges = [row for row in rows if row.school == "merging" and row.persistent("networks")]
        if not price or not single or not merges:
            continue
        most = max(merges, key=lambda row: row.persistent("networks"))
        spare = most.persistent("networks") - single
        if spare <= 0:
            continue
        kept, spares = (text.number(size / single, 1).removesuffix(".0") for size in (spare + single, spare))
        return (
            f"{most.name} keeps {kept} networks of {text.kilobytes(single)} kB, {table.reference.name} one. The "
            f"{spares} spare networks are worth {text.number(spare / price)} stored samples of {text.number(price)} "
            "bytes."
        )
    return None


def _sample_bytes(row: Row) -> float | None:
    """Bytes of a stored sample."""
    stored, capacity = row.persistent("samples"), row.mean("buffer_capacity")
    return stored / capacity if stored and capacity else None


def of_answer(study: Study) -> list[str]:
    """How the sentences at the top are made."""
    better = "highest" if study.measure.higher_is_better else "lowest"
    if any(row.held_out is not None for row in study.rows):
        chosen = (
            f"A school ({_schools(study)}) is represented by its row with the {better} {study.measure.heading} "
            "on held-out training data; rows that were not searched for do not represent it while others were."
        )
    else:
        chosen = (
            f"No row has a result on held-out data, so a school ({_schools(study)}) is represented by its row "
            f"with the {better} mean {study.measure.heading} on the test set; this favours schools with many rows."
        )
    chosen = f"{chosen} {_how_many(study)} {LUCK}"
    equal = (
        "For equal bytes, the merging row is compared with the best rehearsal row of any budget, or with everything "
        "stored, that keeps at most 2 % more bytes."
    )
    samples = "the stored samples of the same budget" if study.has_budgets else "as many stored samples"
    control = (
        f"The control, an untrained network that is trained on {samples}, is compared with the merging row that "
        "represents those that keep stored samples."
    )
    if not study.has_budgets:
        shared = "These runs share no budget: what they keep and how long they train may differ."
        return [chosen, shared, BETTER, f"{equal} {control}"]
    over = "A row that takes over 2 % more bytes or passes than the budget does not represent its school."
    return [f"{chosen} {over}", BETTER, f"{equal} {control}"]


def _named(study: Study) -> list[str]:
    """The schools of which there is something to say; that of frozen features only where it has rows."""
    return [school for school in SCHOOLS if school != FEATURES or any(row.school == FEATURES for row in study.rows)]


def _schools(study: Study) -> str:
    return ", ".join(_named(study))


def _how_many(study: Study) -> str:
    """From how many rows the champion of each school was chosen."""
    found = {budget.name: chosen_from(study, budget) for budget in study.budgets}
    said = {
        name: ", ".join(f"{rows[school]} row{'s' * (rows[school] != 1)} of {school}" for school in _named(study))
        for name, rows in found.items()
    }
    if len(set(said.values())) == 1:
        return f"It was chosen from {next(iter(said.values()))}."
    return "It was chosen " + "; ".join(f"at {name} from {words}" for name, words in said.items()) + "."


def of_statistics(study: Study, tables: list[Table]) -> list[str]:
    """How the numbers in the tables are made."""
    reference = next((table.reference.name for table in tables if table.reference), None)
    other = f"{reference} and to the best row" if reference else "the best row"
    return [
        f"{study.measure.heading.capitalize()}: {study.measure.formula} ({study.measure.source}); "
        f"{study.forgetting.heading}: {study.forgetting.formula} ({study.forgetting.source}). Mean ± sample standard "
        "deviation over seeds.",
        f"Differences to {other} (the method with the best mean, without failed seeds) are paired: over the seeds that "
        "both have, with the 95 % interval of Student's t. p is that of the paired t test after Holm's correction "
        "(Holm 1979) over the rows of the table. Fewer than two common seeds, or seeds that all differ by the same "
        "amount, give no interval. The best row is chosen by the same numbers, so differences to it look a little "
        "larger than they are.",
        "Rows with equal values at every seed stay rows of their own, as they differ in what they keep. Holm's "
        "correction counts each of them, so p is rather too large than too small.",
        "Rank: 1 + the number of methods that are significantly better (paired t test of the row against each other "
        "method, Holm over these, p < 0.05), so rows can tie. Bounds and controls have no rank.",
    ]


def of_search(study: Study) -> str:
    """How learning rates were chosen."""
    search = study.search
    if not study.has_budgets:
        return "These runs are of no study, so the page does not know how their learning rates were chosen."
    if search is None:
        return "Learning rates were not searched for: each row has that of its configuration."
    rates, seeds = (", ".join(f"{value:g}" for value in search[key]) for key in ("rates", "seeds"))
    longer = "A row that is trained to convergence then tries several lengths of training. "
    return (
        f"The learning rate of each row was chosen among {rates} by training with {100 * search['validation']:g} % of "
        f"the training data held out (seed {seeds}): {_tries(search)} tries a row. {longer * _converged(study)}"
        f"The held-out data are of all tasks, which a stream does not allow, alike for all rows. {edge(study)}".strip()
    )


def versions(study: Study) -> list[str]:
    """What made the runs, and when their results were written."""
    found = {}
    for row in study.rows:
        for run in row.runs.values():
            made = run.get("versions") or {}
            software = [f"{name} {made[name]}" for name in ("python", "torch", "horovod") if made.get(name)]
            found.setdefault(", ".join([made_with(made), *software]), []).append(run)
    lines = [f"{len(runs)} runs: {words}" for words, runs in found.items()]
    if study.dates:
        lines.append("Results written " + " to ".join(dict.fromkeys(study.dates)) + " (dates of the files, UTC).")
    return lines
