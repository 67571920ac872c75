"""The results.json of a merge, in the schema of a run."""

from torch import nn

from cl.configuration.identity import config_hash
from cl.networks.frozen import own_state
from cl.reporting import results
from cl.reporting.history import TOTALS, History
from cl.run import costs
from cl.step.passes import COLUMNS
from merging.context import MergeContext
from merging.fusion import Fusion
from merging.sources import Source

NUMBER = 8  # bytes of a number that a running merge carries


def merge_results(
    fusion: Fusion, own: dict, source: Source, context: MergeContext, alone: list[list[float]], merge_seconds: float,
    spent: dict,
) -> dict:  # fmt: skip
    """The content of results.json; totals add up the training of the networks and the merge.

    `spent`: the entries of `merge_costs`.
    """
    session = context.session
    base, history, used = session.config, context.history, used_networks(fusion, len(source.states), own)
    accuracies = [sum(row) / len(row) for row in alone]
    measured = results.measures(history, session.plan.scenario)
    return {
        **results.described(base | own, "merge"),
        "fusion": own["fusion"]["name"],
        "buffer": None,
        "buffer_capacity": None,
        "models_group": _models_group(own, base, context),
        "world_size": 1,
        **measured,
        "model_accuracies": accuracies,
        "mean_model_accuracy": sum(accuracies) / len(accuracies),
        "model_accuracy_matrix": alone,
        **_totals(source, used, history, merge_seconds),
        "merge_seconds": merge_seconds,
        "eval_seconds": history.eval_seconds,
        "samples_per_second": None,
        "replay_wait_seconds": 0.0,
        "peak_memory_bytes": results.peak_memory_bytes(session.device),
        "merge_gradient_steps": history.gradient_steps,
        "merge_labelled_samples": history.labelled_samples,
        "unlabelled_samples": context.unlabelled_samples,
        **spent,
        **context.recorded,
        "files": context.files,
        **({} if session.weights is None else {"pretrained": session.weights}),
        "versions": results.versions(),
        "config": base | own,
    }


def _models_group(own: dict, base: dict, context: MergeContext) -> str:
    """What names the networks alone: how they were made, and with which batch-norm statistics they were measured."""
    made = config_hash(base | {key: own[key] for key in ("run", "checkpoints")})
    return f"{made}_{own['batch_norm_samples']}" if context.recorded["batch_norm"] == "recalibrated" else made


def merge_costs(
    fusion: Fusion, own: dict, source: Source, context: MergeContext, merged: nn.Module, carried: dict[str, float]
) -> dict:
    """The entries on compute and memory of the last merge, which gave `merged`, with the training of its networks.

    Compute is None where the training of the networks is not known: files do not tell, nor runs of earlier versions. So
    is memory where a run of an earlier version does not tell what it keeps.
    """
    session, trained, count = context.session, source.results or {}, len(source.states)
    of_merge = session.passes.take(session.comm)
    used = used_networks(fusion, count, own)
    of_training = _training_counts(trained, used)
    compute = dict.fromkeys((*COLUMNS, "passes", "flops"))
    if of_training is not None:
        compute = costs.compute(session, costs.summed([of_training, of_merge]))
    networks = _network_bytes(fusion, own, source, merged)
    samples = context.kept.sample_bytes(costs.row_bytes(session.plan), costs.pixel_bytes(session.plan))
    memory = {"persistent": None, "persistent_bytes": None}
    if not used or source.results is None or "persistent" in trained:
        of_run = trained["persistent"] if used and trained else dict.fromkeys(("networks", "samples", "statistics"), 0)
        last = source.shared_bytes + source.sizes[-1]
        beside = max(0, of_run["networks"] - last)  # with ema: the raw weights go on
        memory = costs.persistent(
            networks=networks + beside,
            # Adapters are to the start, and a frozen part is that of the start: they are among the networks.
            start=max(0, costs.size(source.initial) - source.shared_bytes) if fusion.needs_initial else 0,
            samples=samples + of_run["samples"],
            statistics=context.kept.statistics + NUMBER * len(carried) * own["running"] + of_run["statistics"],
        )
    return {
        **compute,
        "merge_passes": costs.training_passes(of_merge),
        "buffer_bytes": networks + samples,
        **memory,
        "optimizer_bytes": max(trained.get("optimizer_bytes", 0) if used else 0, context.optimizer_bytes),
    }


def used_networks(fusion: Fusion, count: int, own: dict) -> set[int]:
    """Which of `count` networks had a say in any merge that was made."""
    if own["running"] and count > 1:
        so_far, newest = (place in fusion.used(2) for place in (0, 1))
        before = used_networks(fusion, count - 1, own) if so_far else set()
        return before | {count - 1} if newest else before
    merges = range(1, count + 1) if own["sequential"] else [count]
    return {number for so_many in merges for number in fusion.used(so_many)}


def _training_counts(trained: dict, used: set[int]) -> costs.Counts | None:
    """Passes of the stages of training without which the networks `used` would not be there; None: not known."""
    stages = _stages(trained, used, "stage_counts")
    return None if stages is None else costs.summed(stages)


def _totals(source: Source, used: set[int], history: History, merge_seconds: float) -> dict:
    """Seconds, steps and samples of the merge and of the training that it needed; None where that is not known."""
    trained = source.results or {}
    stages = _stages(trained, used, "stage_costs")
    if stages is None and trained:  # of an earlier version, which tells the sum alone
        stages = [{name: trained[name] for name in TOTALS}]
    own = (merge_seconds, history.gradient_steps, history.labelled_samples)
    if stages is None:
        return dict.fromkeys(TOTALS)
    return {name: sum(stage[name] for stage in stages) + number for name, number in zip(TOTALS, own)}


def _stages(trained: dict, used: set[int], key: str) -> list[dict] | None:
    """The entries of the stages of training without which the networks `used` would not be there; None: not known."""
    if not used:
        return []
    if key not in trained:
        return None
    apart = trained["config"]["strategy"].get("init") in ("shared", "independent")
    return [stage for number, stage in enumerate(trained[key]) if number <= max(used) and (number in used or not apart)]


def _network_bytes(fusion: Fusion, own: dict, source: Source, merged: nn.Module) -> int:
    """Bytes of the networks from which the last merge was made; at least of the one that predicts."""
    sizes = source.sizes
    if own["running"] and len(sizes) > 1:
        sizes = [costs.size(own_state(merged)), sizes[-1]]
    used = sum(sizes[number] for number in fusion.used(len(sizes)))
    return source.shared_bytes + used if used else costs.size(merged.state_dict())
