"""Checks for options of merge.py that contradict each other; they run before torch is imported."""

from cl.configuration.arguments import options
from cl.values import did_you_mean


def check_choices(config: dict) -> None:
    """Raise ValueError for options on networks, launcher or baselines that merging cannot use."""
    files, run = config["checkpoints"], config["run"]
    if files is not None and run is not None:
        raise ValueError("give checkpoints or run, not both")
    if config["initial"] is not None and files is None:
        raise ValueError("initial=FILE is for checkpoints=[FILE]; the common init of a run is known: leave it out")
    if files is not None and config["weighting"] == "samples":
        raise ValueError(
            "weighting=samples needs the networks of a run: files do not hold the number of training samples; "
            "set weighting=uniform"
        )
    if config["launcher"]["name"] != "none":
        raise ValueError(
            f"launcher={config['launcher']['name']}: merging runs in one process; train with run.py "
            "strategy=independent on several ranks, then merge with run=FOLDER"
        )
    if files is None and run is None and config["strategy"]["name"] != "independent":
        name = config["strategy"]["name"]
        raise ValueError(
            f"merging starts from strategy=independent, got strategy={name}: to merge the networks of a run of {name} "
            f"give run=FOLDER, and to compare with {name} give baselines=[{name}]"
        )
    known = options("strategy")
    for baseline in config["baselines"]:
        if baseline not in known:
            raise ValueError(
                f"baselines={baseline} does not exist{did_you_mean(baseline, known)}; valid: {', '.join(known)}"
            )
