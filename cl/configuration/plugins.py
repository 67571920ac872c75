"""Launchers and sweepers of Hydra that are packages of their own, and how they go together with our options."""

import typing

from omegaconf import DictConfig

from cl.configuration.settings import Run
from cl.values import convert

# What installs a plugin: the extra of remerge, and its own name.
PACKAGES = {
    "hydra/launcher": {
        "joblib": ("joblib", "hydra-joblib-launcher"),
        "submitit_local": ("submitit", "hydra-submitit-launcher"),
        "submitit_slurm": ("submitit", "hydra-submitit-launcher"),
    },
    "hydra/sweeper": {
        "optuna": ("optuna", "hydra-optuna-sweeper"),
        "search": ("optuna", "hydra-optuna-sweeper"),
    },
}


def package_of(group: str, name: str) -> str | None:
    """How to install a plugin that is not there, in words; None for one that is not known."""
    if name not in PACKAGES.get(group, {}):
        return None
    extra, package = PACKAGES[group][name]
    return f'{group}={name} needs a package that is not installed: pip install "remerge[{extra}]" (or {package})'


def jobs_of(config) -> int | str:
    """`jobs` of a configuration, checked: a number or auto."""
    kind = typing.get_type_hints(Run, include_extras=True)["jobs"]
    return convert("jobs", config.get("jobs"), kind)


def check_launcher(config: DictConfig) -> None:
    """Raise ValueError where two launchers were asked for."""
    jobs, chosen = jobs_of(config), config.hydra.runtime.choices.get("hydra/launcher")
    if jobs != 1 and chosen != "jobs":
        raise ValueError(
            f"jobs={jobs} and hydra/launcher={chosen} both say how the jobs of a sweep run: leave out one of them"
        )


def direction(config: DictConfig) -> str | None:
    """Minimize or maximize, where a sweeper optimises one objective; else None."""
    found = config.hydra.sweeper.get("direction")
    return found if found is None or isinstance(found, str) else getattr(found, "name", None)


def check_sweeper(config: DictConfig) -> str | None:
    """A hint about a sweeper that optimises; raises ValueError where it would look for the worst."""
    asked = direction(config)
    if asked is None:
        return None
    targets = config.scenario.get("targets")
    good = "minimize" if targets else "maximize"
    if asked != good:
        raise ValueError(
            f"hydra.sweeper.direction={asked} would look for the worst runs, which give their "
            f"{'error' if targets else 'accuracy'}: set hydra.sweeper.direction={good}, or choose hydra/sweeper=search"
        )
    if not config.dataset.get("validation", 1):
        return (
            "trials are compared on the test data, which makes the best of them look better than it is: "
            "dataset.validation=0.1 compares them on held-out training data"
        )
    return None
