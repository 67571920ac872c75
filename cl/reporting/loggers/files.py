"""What loggers leave in a run's folder and what of it goes when the run begins anew. Needs neither logger's package."""

from pathlib import Path

from cl.reporting.loggers import tensorboard, wandb


def forget(folder: Path) -> None:
    """Begin anew: the run gets another run of wandb, and other event files. What waits for `wandb sync` stays."""
    for path in (folder / wandb.RECORD, *tensorboard.files(folder)):
        path.unlink(missing_ok=True)
