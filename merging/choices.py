"""Choices of merge.py that do not go together, said before torch is imported."""

from cl.configuration.arguments import options
from cl.values import did_you_mean


def check_choices(config: dict) -> None:
    """Raise ValueError for networks, a launcher or baselines that merging cannot start from."""
    files, run = config["checkpoints"], config["run"]
    if files is not None and run is not None:
        raise ValueError("give checkpoints or run, not both")
    if config["initial"] is not None and files is None:
        raise ValueError("initial=FILE belongs to checkpoints: the networks of a run know what they started from")
    if files is not None and config["weighting"] == "samples":
        raise ValueError("weighting=samples needs the networks of a run: of files it is not known what they have seen")
    if config["launcher"]["name"] != "none":
        raise ValueError(
            f"launcher={config['launcher']['name']}: merging is one process; train with run.py strategy=independent "
            "and several ranks, and merge with run=FOLDER"
        )
    if files is None and run is None and config["strategy"]["name"] != "independent":
        raise ValueError(f"merging starts from strategy=independent, got strategy={config['strategy']['name']}")
    known = options("strategy")
    for baseline in config["baselines"]:
        if baseline not in known:
            raise ValueError(
                f"baselines={baseline} does not exist{did_you_mean(baseline, known)}; valid: {', '.join(known)}"
            )
