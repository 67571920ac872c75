"""The schools of rows. A study names them; those of any other runs follow from what the runs did."""

from collections.abc import Iterable
from pathlib import Path

from cl.checksums import DamagedError
from cl.reporting.reading import read_results

REHEARSAL, MERGING, BOTH = "rehearsal", "merging", "both"
FEATURES = "frozen features"  # statistics of the features of each sample, without gradient steps
# Those whose rows are no methods: they take no part in the answer, the ranking and the Pareto front.
BOUND, CONTROL = "bound", "control"
REGULARISATION = "regularisation"
UNKNOWN = "unknown"  # a merge of a run whose results are not there
BOUNDS = ("finetune", "joint", "scratch", "independent")  # strategies
CONTROLS = ("untrained", "last")  # fusions that merge nothing
SAME_RUN = 3  # parts at the end of a path that name a run: <benchmark>/<run>/<seed>


def school(run: dict, results: Iterable[Path] = ()) -> str:
    """The school of the content of a results.json; `results`: files among which a run that was merged may be."""
    config = run["config"]
    replays = config["strategy"].get("memory")
    if run["kind"] == "merge":
        fusion = config.get("fusion") or {}
        if run["fusion"] in CONTROLS or fusion.get("ends") == "untrained":
            return CONTROL
        if config.get("run") is not None:
            replays = _replays(Path(config["run"]), results)
        return UNKNOWN if replays is None else BOTH if replays else MERGING
    if run["strategy"] in BOUNDS:
        return BOUND
    if run.get("gradient_steps") == 0:
        return FEATURES
    if not replays:
        return REGULARISATION
    averages = config.get("ema") is not None or config.get("average", {"name": "none"})["name"] != "none"
    return BOTH if averages else REHEARSAL


def _replays(folder: Path, results: Iterable[Path]) -> bool | None:
    """Whether the run in a folder stored samples; a folder that has been moved is looked for among the results."""
    end = folder.parts[-SAME_RUN:]
    files = [folder / "results.json", *(file for file in results if file.parent.resolve().parts[-SAME_RUN:] == end)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        return bool(read_results(file)["config"]["strategy"].get("memory"))
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a result of remerge ({type(error).__name__}: {error})") from error
