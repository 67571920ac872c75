"""The results.json of a merge, in the schema of a run."""

import math

from cl.configuration.identity import config_hash
from cl.reporting import results
from cl.run.session import Session
from merging.context import MergeContext
from merging.fusion import State
from merging.sources import Source


def merge_results(
    own: dict, session: Session, source: Source, context: MergeContext, alone: list[list[float]], merge_seconds: float
) -> dict:
    """The content of results.json; totals add up the training of the networks and the merge."""
    trained, base, history = source.results or {}, session.config, context.history
    accuracies = [sum(row) / len(row) for row in alone]
    measured = results.measures(history, session.plan.scenario.task_aware)
    return {
        **results.described(base | own, "merge"),
        "fusion": own["fusion"]["name"],
        "buffer": None,
        "buffer_capacity": None,
        "models_group": config_hash(base | {key: own[key] for key in ("run", "checkpoints")}),
        "world_size": 1,
        **measured,
        "model_accuracies": accuracies,
        "mean_model_accuracy": sum(accuracies) / len(accuracies),
        "model_accuracy_matrix": alone,
        "train_seconds": trained.get("train_seconds", 0.0) + merge_seconds,
        "merge_seconds": merge_seconds,
        "eval_seconds": history.eval_seconds,
        "samples_per_second": None,
        "replay_wait_seconds": 0.0,
        "buffer_bytes": _kept_bytes(own, session, source.states, context.samples_kept),
        "peak_memory_bytes": results.peak_memory_bytes(session.device),
        "gradient_steps": trained.get("gradient_steps", 0) + history.gradient_steps,
        "labelled_samples": trained.get("labelled_samples", 0) + history.labelled_samples,
        "merge_gradient_steps": history.gradient_steps,
        "merge_labelled_samples": history.labelled_samples,
        "unlabelled_samples": context.unlabelled_samples,
        **context.recorded,
        "versions": results.versions(),
        "config": base | own,
    }


def _kept_bytes(own: dict, session: Session, states: list[State], samples: int) -> int:
    """Bytes of the networks and samples that the merge needs at once."""
    sizes = [sum(value.nbytes for value in state.values()) for state in states]
    networks = sum(sizes[:2]) if own["running"] else sum(sizes)
    return networks + samples * (math.prod(session.plan.dataset.sample_shape) + 16)
