"""One job of merge.py: a study, or a merge, which is checked before torch is imported."""

from pathlib import Path

from cl import imports
from cl.reporting import opening, screen
from cl.run import checks
from cl.run.folder import plain
from merging.choices import check_choices
from merging.folder import merge_folder
from merging.study import words


def merge(config) -> list[Path]:
    """Do what a configuration (OmegaConf) asks for; returns the folders of the baselines and, last, of the merge.

    A study returns none: it prints its own tables.
    """
    if config.seeds != 1:
        raise ValueError(f"seeds={config.seeds} is for run.py: a sweep merges several seeds, -m seed=0,1,2")
    if words.is_study(config):
        from merging.study.run import run as run_study

        run_study(*words.of_study(config))
        return []
    settings = plain(config)
    checks.check(settings)
    check_choices(settings)
    opening.say(
        f"{settings['fusion']['name']} of {_networks(settings)} {opening.on_data(settings)}", merge_folder(settings)
    )
    with imports.many():
        from merging.run import run  # imports torch

    return run(config)


def study_folder(config, given: list[str], folder: str | None = None) -> Path:
    """Where the study of a configuration lies that these words describe; `folder`: that of the user's own options.

    Raises ValueError or OSError for the mistakes that the study itself would find before it runs.
    """
    from merging.study.run import prepared

    return prepared(*words.of_study(config, given, folder)).folder


def _networks(config: dict) -> str:
    """Which networks are merged, in words."""
    if config["checkpoints"] is not None:
        return f"{len(config['checkpoints'])} files"
    if config["run"] is not None:
        return f"the networks in {screen.place(config['run'])}"
    return f"the networks of {config['strategy']['name']}"
