"""Published figures, from a YAML file, to stand beside those of finished runs.

    source: Model Merging for Continual Learning
    rows:
      - where: {strategy: avg, protocol.name: published, backbone.hidden: [400, 200, 100]}
        average_accuracy: [81.30, 1.87]     # per cent, mean and standard deviation of one seed

A row is of the runs whose table columns and configuration have what `where` says.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """Mean and standard deviation over seeds, in the units of the table."""

    mean: float
    std: float


@dataclass(frozen=True)
class Published:
    """Where the figures come from, and for each row what it is of and its figures by measure."""

    source: str
    rows: list[tuple[dict, dict[str, Figure]]]

    @classmethod
    def read(cls, path: Path) -> "Published":
        """Raises ValueError for a file that is not of the form above."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        try:
            content = OmegaConf.to_container(OmegaConf.load(path))
            rows = []
            for row in content["rows"]:
                figures = {key: Figure(*map(float, row[key])) for key in row if key != "where"}
                if not all(figure.std > 0 for figure in figures.values()):
                    raise ValueError(f"a standard deviation that is not above 0 in {row}")
                rows.append((dict(row["where"]), figures))
            return cls(str(content["source"]), rows)
        except (OmegaConfBaseException, YAMLError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has no published figures as cl/reporting/published.py describes: {error!r}"
            ) from error

    @property
    def measures(self) -> set[str]:
        return {key for _, figures in self.rows for key in figures}

    @property
    def strategies(self) -> set[str]:
        """What the figures are of, as the tables name it."""
        return {str(where["strategy"]) for where, _ in self.rows if "strategy" in where}

    def of(self, config: dict, columns: dict[str, str], measure: str) -> Figure | None:
        """The figure of a group of runs; None without one."""
        for where, figures in self.rows:
            if measure in figures and all(
                columns.get(key) == str(value) or _at(config, key) == value for key, value in where.items()
            ):
                return figures[measure]
        return None


def _at(config: dict, key: str):
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
