"""The tables of a page in other forms: Markdown, CSV (all numbers, unrounded) and LaTeX (booktabs)."""

import csv
import io

from cl.reporting import latex
from cl.reporting.page.cells import PARTS, PASSES, columns
from cl.reporting.page.comparison import Line, Table
from cl.reporting.page.inference import Difference
from cl.reporting.page.study import Study

LATEX_COLUMNS = ("name", "reference_difference", "rank", "forgetting", "persistent_bytes", "passes", "flops", "seeds")


def markdown_table(study: Study, table: Table) -> str:
    """The columns of the page, the smaller text of a cell in brackets, and the command of each row below."""
    shown = columns(study, table)
    lines = ["| " + " | ".join(_markdown(column.heading) for column in shown) + " |", "|" + "---|" * len(shown)]
    for line in table.lines:
        cells = [(column.print(line), column.below(line)) for column in shown]
        lines.append("| " + " | ".join(_markdown(f"{top} ({below})" if below else top) for top, below in cells) + " |")
    return "\n".join(lines) + "\n"


def as_csv(study: Study, tables: list[Table]) -> str:
    """A line for each row of each table; accuracies are fractions, p values are after Holm."""
    out = io.StringIO()
    records = [_record(study, table, line) for table in tables for line in table.lines]
    if records:
        writer = csv.DictWriter(out, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return out.getvalue()


def as_latex(study: Study, tables: list[Table]) -> str:
    """A table for each budget; needs the package booktabs."""
    return "\n".join(_latex_table(study, table) for table in tables)


def _record(study: Study, table: Table, line: Line) -> dict:
    row = line.row
    return {
        "budget": table.budget.name,
        "row": row.name,
        "school": row.school,
        f"{study.measure.key}_mean": line.accuracy,
        f"{study.measure.key}_std": line.deviation,
        **_difference("reference", line.reference, line.reference_p),
        **_difference("best", line.best, line.best_p),
        "rank": line.rank,
        f"{study.forgetting.key}_mean": line.forgetting,
        f"{study.forgetting.key}_std": line.forgetting_deviation,
        "persistent_bytes": row.mean("persistent_bytes"),
        **{f"persistent_{part}": row.persistent(part) for part in PARTS},
        **{key: row.mean(key) for key in ("optimizer_bytes", "passes", *(key for key, _ in PASSES), "flops")},
        "train_seconds": row.mean("train_seconds"),
        "rate": row.rate,
        "held_out": row.held_out,
        "tries": " ".join(f"{each['rate']:g}:{'' if (v := each['held_out']) is None else v}" for each in row.tries),
        "seeds": " ".join(map(str, row.runs)),
        "failed": " ".join(str(failure["seed"]) for failure in row.failed),
        "bytes_of_budget": line.bytes_of_budget,
        "passes_of_budget": line.passes_of_budget,
        "why": row.why,
        "command": row.command,
    }


def _difference(name: str, found: Difference | None, p: float | None) -> dict:
    told = (None, None, None) if found is None else (found.mean, found.low, found.high)
    return dict(zip((f"{name}_difference", f"{name}_low", f"{name}_high", f"{name}_p"), (*told, p)))


def _markdown(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("\n", " ").replace("<", "&lt;")


def _latex_table(study: Study, table: Table) -> str:
    kept = (*LATEX_COLUMNS[:1], study.measure.key, *LATEX_COLUMNS[1:])
    shown = [column for column in columns(study, table) if column.key in kept]
    cells = []
    for line in table.lines:
        below = {column.key: column.below(line) for column in shown if column.key == "reference_difference"}
        printed = [(column.print(line), below.get(column.key)) for column in shown]
        cells.append([f"{top} ({small})" if small else top for top, small in printed])
    caption = f"{study.title}, {table.budget.name}: {study.about}. Mean ± sample standard deviation over seeds."
    return latex.table([column.heading for column in shown], cells, 1, caption)
