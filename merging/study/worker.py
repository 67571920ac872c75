"""What a process of a study does: a run, a merge, or finding out what the data and components are."""

import contextlib
import io

from omegaconf import OmegaConf

from cl.jobs.sizes import gpus_for


def execute(kind: str, config: dict) -> tuple[str, bool] | None:
    """Do a job: a `run`, a `merge`, or the `networks` of a merge.

    Returns its error in one line, and whether that is that training diverged; None if there was none.
    """
    from cl.run.mistakes import one_line
    from cl.run.trainer import DivergedError

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the lines of single tasks
            _do(kind, config)
    except Exception as error:
        return one_line(error, "merge", []), isinstance(error, DivergedError)
    return None


def _do(kind: str, config: dict) -> None:
    from merging import run as merges

    if kind == "merge":
        merges.run(OmegaConf.create(config))
    else:
        merges.train(merges.parts(config)[2] if kind == "networks" else config)


def facts(config: dict, fusions: dict[str, dict], strategies: dict[str, dict]) -> dict:
    """What `merging.study.rows.Facts` holds, for a configuration of run.py and those of some fusions and strategies."""
    from cl.build import build
    from cl.run.device import SMALL_NETWORK
    from cl.run.plan import make_plan
    from cl.run.session import Session
    from merging.batch_norm import has_statistics
    from merging.fusion import WeightFusion

    with Session(make_plan(config)) as session:
        plan = session.plan
        if plan.scenario.targets:
            raise ValueError(
                f"a study merges classifiers, but scenario={config['scenario']['name']} has no labels: choose another"
            )
        tasks, _ = session.load_tasks()
        row = tasks.training([0]).part(slice(1)).loaded()
        built = {name: build(node, "fusion") for name, node in fusions.items()}
        task_samples = [tasks.num_training([task]) for task in range(plan.scenario.num_tasks)]
        return {
            "training_samples": sum(task_samples),
            "task_samples": task_samples,
            "sample_bytes": sum(column.nbytes for column in row.columns.values()),
            "batch_norm": has_statistics(session.model),
            "learning_rate": config["optimizer"]["lr"],
            "untrained": [name for name, node in strategies.items() if not build(node, "strategy").trains],
            "small_network": sum(weight.numel() for weight in session.model.parameters()) < SMALL_NETWORK,
            "gpus": gpus_for(config["device"]) if session.device.type == "cuda" else None,
            "fusions": {
                name: {
                    "needs_initial": fusion.needs_initial,
                    "weights": isinstance(fusion, WeightFusion),
                    "most_models": fusion.most_models,
                    "trains": "epochs" in fusions[name],
                    "looks": "samples_per_task" in fusions[name]
                    and "epochs" not in fusions[name]
                    and fusions[name].get("scale", "search") == "search",
                    "together": fusion.needs_all_tasks,
                }
                for name, fusion in built.items()
            },
        }
