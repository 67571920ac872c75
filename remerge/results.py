"""What a run, a merge, a sweep or a study gives back: numbers, networks, files, and a table for notebooks."""

import functools
import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cl.checksums import read_json
from cl.reporting.metrics import ERROR_METRICS, METRICS
from cl.reporting.reading import read_results

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

PICTURES = ("*.png", "*.svg", "*.pdf")


class Run:
    """A finished run or merge, read from its folder.

    `baselines`: of a merge, the runs that it is compared with. `trust`: modules of yours whose code its networks need.
    Raises FileNotFoundError for a folder without results,
    ValueError for one with damaged ones.
    """

    def __init__(self, folder: str | Path, baselines: Sequence["Run"] = (), trust: Sequence[str] = ()):
        self.folder, self.baselines, self.trust = Path(folder), tuple(baselines), tuple(trust)
        path = self.folder / "results.json"
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has no results.json: expected the folder of a finished run")
        self.results: dict = read_results(path)

    def __getattr__(self, name: str):
        """Entries of results.json by their names: average_accuracy, forgetting, train_seconds, strategy, seed ..."""
        results = self.__dict__.get("results", {})
        if name in results:
            return results[name]
        raise AttributeError(f"{name} is no entry of this run's results; it has {', '.join(sorted(results))}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.results})

    @property
    def accuracy_matrix(self) -> "np.ndarray":
        """[stages, tasks] float64: the accuracy, in [0, 1], on each task after each stage, over all classes."""
        return self._matrix("accuracy_matrix")

    @property
    def task_accuracy_matrix(self) -> "np.ndarray":
        """The same over the classes of each task alone; raises ValueError where tasks share their classes."""
        return self._matrix("task_accuracy_matrix")

    @property
    def error_matrix(self) -> "np.ndarray":
        """[stages, tasks] float64 of a scenario that measures errors."""
        return self._matrix("error_matrix")

    def _matrix(self, name: str) -> "np.ndarray":
        import numpy as np

        if self.results.get(name) is None:
            has = [key for key in ("accuracy_matrix", "task_accuracy_matrix", "error_matrix") if self.results.get(key)]
            raise ValueError(f"this run has no {name}, it has {', '.join(has)}")
        return np.array(self.results[name])

    @property
    def measures(self) -> dict[str, float]:
        """Every measure of the matrix that is one number, by name, your own metrics included."""
        keys = [metric.key for metric in (*METRICS, *ERROR_METRICS)] + list(self.config.get("metrics", {}))
        return {key: self.results[key] for key in keys if isinstance(self.results.get(key), int | float)}

    @property
    def metrics(self) -> "pd.DataFrame":
        """The rows of metrics.csv: loss and learning rate over the steps."""
        import pandas as pd

        return pd.read_csv(self.folder / "metrics.csv")

    @property
    def pictures(self) -> list[Path]:
        """The files of its plots."""
        return sorted(path for pattern in PICTURES for path in self.folder.glob(pattern))

    @functools.cached_property
    def networks(self) -> Sequence["nn.Module"]:
        """The network after each stage, in evaluation mode on the CPU; read when one is asked for."""
        from remerge.networks import Networks

        return Networks(self.folder, self.results, self.trust)

    @property
    def network(self) -> "nn.Module":
        """The network after the last stage."""
        return self.networks[-1]

    def __repr__(self) -> str:
        from cl.reporting import groups, tables

        return f"{tables.as_text(groups.load([self.folder]))}\n{self.folder}"

    def _repr_html_(self) -> str:
        return _as_html([self], f"<p>{html.escape(str(self.folder))}</p>{_matrix_html(self.results)}")

    def __eq__(self, other) -> bool:
        return isinstance(other, Run) and self.folder.resolve() == other.folder.resolve()

    def __hash__(self) -> int:
        return hash(self.folder.resolve())


@dataclass(frozen=True)
class Failure:
    """A job of a sweep that failed: its words, and its error in one line."""

    words: tuple[str, ...]
    error: str


class Runs(Sequence):
    """Several runs, in order, with one table over the seeds; `page`: of a study, the file of its page."""

    def __init__(self, runs: Iterable[Run], page: Path | None = None):
        self._runs, self.page = list(dict.fromkeys(runs)), page

    @classmethod
    def of_study(cls, folder: Path) -> "Runs":
        """The runs of all rows of a study."""
        from cl.reporting.page import page  # imports scipy

        content = read_json(folder / page.STUDY, remedy="call the study again")
        paths = [(folder / path).parent for row in content["rows"] for path in row["runs"]]
        return cls((Run(path) for path in paths), folder / page.FOLDER / page.PAGE)

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, place):
        return Runs(self._runs[place], self.page) if isinstance(place, slice) else self._runs[place]

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @property
    def frame(self) -> "pd.DataFrame":
        """A row for each run, as `remerge.load` has it."""
        from remerge.frames import load

        return load([run.folder for run in self])

    def __repr__(self) -> str:
        from cl.reporting import groups, tables

        return tables.as_text(groups.load([run.folder for run in self])) if len(self) else "no runs"

    def _repr_html_(self) -> str:
        link = "" if self.page is None else f'<p><a href="{html.escape(str(self.page))}">the page of the study</a></p>'
        return _as_html(list(self), link) if len(self) else "<p>no runs</p>"


class SweepFailed(ValueError):
    """Some of `total` jobs failed; `runs` are the others, `failed` has the words and the error of each."""

    def __init__(self, runs: Runs, failed: Sequence[Failure], total: int):
        self.runs, self.failed, self.total = runs, list(failed), total
        lines = [f"{' '.join(failure.words)}: {failure.error}" for failure in failed]
        super().__init__("\n".join([f"{len(failed)} of {total} jobs failed (the others are in .runs):", *lines]))

    def __reduce__(self):
        return type(self), (self.runs, self.failed, self.total)


def _as_html(runs: list[Run], more: str) -> str:
    from cl.reporting import groups, tables

    return tables.as_html(groups.load([run.folder for run in runs])) + more


def _matrix_html(results: dict) -> str:
    """The matrix that the scenario asks for, as a table."""
    from cl.reporting.metrics import measured

    matrix, _ = measured(results)
    percent = "error_matrix" not in results
    cells = [[f"{100 * value:.1f}" if percent else f"{value:.4f}" for value in row] for row in matrix]
    head = "".join(f"<th>task {number}</th>" for number in range(1, len(matrix[0]) + 1))
    title = f"{'accuracy, %' if percent else 'error'}, after stage"
    rows = "".join(
        f"<tr><th>{number}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for number, row in enumerate(cells, start=1)
    )
    return f"<table><thead><tr><th>{title}</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
