"""Options out of range or of another kind, one line each; what their annotations say is checked before an import."""

import pytest
from omegaconf import OmegaConf
from support import ROOT

from cl.build import GIVEN, build, checked_options
from cl.signatures import parameters_of

# The group, its member, one option and its value, and what it must be.
OUT_OF_RANGE = [
    ("schedule", "constant", "warmup", -0.1, "a number of at least 0"),
    ("schedule", "cosine", "final", -0.1, "a number of at least 0 and of at most 1"),
    ("schedule", "cosine", "final", 1.1, "a number of at least 0 and of at most 1"),
    ("schedule", "linear", "final", 1.1, "a number of at least 0 and of at most 1"),
    ("schedule", "linear", "end", 1.1, "a number of at least 0 and of at most 1"),
    ("schedule", "linear", "start", -0.1, "a number of at least 0 and of at most 1"),
    ("schedule", "multistep", "milestones", [0.0, 0.5], "a list (each a number above 0)"),
    ("schedule", "multistep", "milestones", [-0.5], "a list (each a number above 0)"),
    ("schedule", "multistep", "milestones", "half", "a list (each a number above 0)"),
    ("schedule", "multistep", "gamma", [0.0], "a number above 0 or a list (each a number above 0)"),
    ("schedule", "multistep", "gamma", -0.1, "a number above 0 or a list"),  # the rate would be negative
    ("schedule", "multistep", "gamma", 0.0, "a number above 0 or a list"),  # nothing would be learned
    ("schedule", "step", "every", 0.0, "a number above 0"),
    ("schedule", "step", "gamma", 0.0, "a number above 0"),
    ("schedule", "cyclic", "low", 1.5, "a number of at least 0 and of at most 1"),
    ("schedule", "cyclic", "half_cycle_epochs", 0, "a number above 0 or null"),
    ("schedule", "cyclic", "half_cycle", 0, "a whole number of at least 1"),
    ("schedule", "cyclic", "mode", "round", "triangular, triangular2 or exp_range"),
    ("schedule", "cyclic", "gamma", 0.0, "a number above 0 and of at most 1"),
    ("schedule", "warm_restarts", "first", 0, "a number above 0"),
    ("schedule", "warm_restarts", "growth", 0.5, "a number of at least 1"),
    ("schedule", "warm_restarts", "final", 2, "a number of at least 0 and of at most 1"),
    ("strategy", "er", "replay_batch_size", True, "a whole number of at least 1"),
    ("strategy", "er", "replay_from", 1.0, "a whole number of at least 1"),
    ("strategy", "er", "replay_from", 0, "a whole number of at least 1"),
    ("strategy", "er", "filling", "never", "stream or task_end"),
    ("strategy", "er", "weighting", "by", "together or by_task"),
    ("strategy", "er_ace", "filling", "never", "stream or task_end"),
    ("strategy", "agem", "replay_batch_size", 0, "a whole number of at least 1"),
    ("strategy", "der", "alpha", -1, "a number of at least 0"),
    ("strategy", "derpp", "replay_batch_size", 0, "a whole number of at least 1"),
    ("strategy", "derpp", "alpha", "abc", "a number of at least 0"),
    ("strategy", "derpp", "beta", -0.1, "a number of at least 0 or null"),
    ("strategy", "derpp", "distill_from", 0, "a whole number of at least 1"),
    ("strategy", "derpp", "distillation_batch_size", 0, "a whole number of at least 1 or null"),
    ("strategy", "derpp", "folded", "sure", "true or false"),
    ("strategy", "ewc", "lambda_", float("nan"), "a number of at least 0"),
    ("strategy", "ewc", "gamma", "x", "a number of at least 0 and of at most 1"),
    ("strategy", "ewc", "fisher_labels", True, "all, sampled or empirical"),
    ("strategy", "ewc", "fisher_samples", 0, "a whole number of at least 1 or null"),
    ("strategy", "ewc", "anchors", "x", "online or separate"),
    ("strategy", "si", "c", -1, "a number of at least 0"),
    ("strategy", "si", "xi", 0, "a number above 0"),
    ("strategy", "lwf", "alpha", -1, "a number of at least 0"),
    ("strategy", "lwf", "temperature", None, "a number above 0"),
    ("strategy", "lwf", "temperature_squared", "sure", "true or false"),
    ("strategy", "lwf", "outputs", "old", "seen or all"),
    ("strategy", "lwf", "distilled", "none", "old, seen or all"),
    ("strategy", "lwf", "weighting", "no", "together, sum_over_tasks or by_task"),
    ("strategy", "lwf", "warmup_steps", True, "a whole number of at least 0"),
    ("strategy", "fdr", "alpha", -1, "a number of at least 0"),
    ("strategy", "fdr", "distance", "logits", "softmax or outputs"),
    ("strategy", "gss", "compared", 0, "a whole number of at least 1"),
    ("strategy", "gss", "gate", "none", "sample or batch"),
    ("strategy", "wa", "temperature", 0, "a number above 0"),
    ("strategy", "bic", "held_out", 1, "a number above 0 and below 1"),
    ("strategy", "lucir", "hardest", 0, "a whole number of at least 1"),
    ("strategy", "lucir", "margin", -0.1, "a number of at least 0"),
    ("strategy", "independent", "init", "x", "shared, independent, previous or merged"),
    ("loader", "workers", "workers", -1, "a whole number of at least 0 or auto"),
    ("loader", "workers", "workers", "all", "a whole number of at least 0 or auto"),
    ("loader", "workers", "prefetch", 0, "a whole number of at least 1"),
    ("loader", "dali", "threads", 0, "a whole number of at least 1"),
    ("loader", "dali", "prefetch", 0, "a whole number of at least 1"),
    ("logger.wandb", "wandb", "mode", "offlin", "online, offline or disabled"),
    ("dataset", "digits", "validation", 1.0, "a number of at least 0 and below 1"),
    ("dataset", "mnist", "augment", "flip_", "a list (each crop, flip, resized_crop or rand_augment)"),
    ("dataset", "mnist", "augment", [["flip"]], "a list (each crop, flip, resized_crop or rand_augment)"),
    ("fusion", "opcm", "alpha", 1.5, "a number of at least 0 and of at most 1"),
    ("fusion", "ties", "keep", 0, "a number above 0 and of at most 100"),
    ("fusion", "dare", "drop", 1, "a number of at least 0 and below 1"),
    ("fusion", "dare", "then", "avg", "task_arithmetic or ties"),
    ("fusion", "dare", "keep", 101, "a number above 0 and of at most 100"),
    ("fusion", "fisher", "labels", "one", "all, sampled or empirical"),
    ("fusion", "fisher", "samples_per_task", 0, "a whole number of at least 1 or null"),
    ("fusion", "rebasin", "max_sweeps", 0, "a whole number of at least 1"),
    ("fusion", "regmean", "samples_per_task", 0, "a whole number of at least 1"),
    ("fusion", "regmean", "shrink", -0.5, "a number of at least 0 and of at most 1"),
    ("fusion", "ot", "cost", "x", "weights or activations"),
    ("fusion", "ot", "solver", "x", "emd, sinkhorn or unbalanced"),
    ("fusion", "ot", "marginals", "x", "uniform or norm"),
    ("fusion", "ot", "anchor", "last", "first, widest, random or barycentre"),
    ("fusion", "ot", "reg", 0, "a number above 0"),
    ("fusion", "ot", "reg_marginal", 0, "a number above 0"),
    ("fusion", "ot", "rounds", 0, "a whole number of at least 1"),
    ("fusion", "ot", "samples", 0, "a whole number of at least 1"),
    ("fusion", "curve", "kind", "x", "bezier or chain"),
    ("fusion", "curve", "init", "x", "linear or random"),
    ("fusion", "curve", "start", "x", "model or average"),
    ("fusion", "curve", "ends", "x", "models or untrained"),
    ("fusion", "curve", "at", 1.5, "a number of at least 0 and of at most 1 or best"),
    ("fusion", "curve", "at", "worst", "a number of at least 0 and of at most 1 or best"),
    ("fusion", "curve", "held_out", 1, "a number above 0 and below 1"),
    ("fusion", "curve", "points", -1, "a whole number of at least 0"),
    ("fusion", "curve", "samples", 0, "a whole number of at least 1"),
    ("fusion", "curve", "bends", 0, "a whole number of at least 1"),
    ("fusion", "curve", "epochs", 0, "a number above 0"),
    ("fusion", "curve", "samples_per_task", -1, "a whole number of at least 1 or null"),
    ("fusion", "curve", "plane", -1, "a whole number of at least 0"),
]  # fmt: skip

# What only all options together tell, from the constructor.
IMPOSSIBLE = [
    ("schedule", "linear", {"start": 0.9, "end": 0.5}, "schedule.start must be below schedule.end"),
    ("strategy", "derpp", {"replay_batch_size": 1, "alpha": 1, "beta": None}, "strategy.beta=null"),
    ("fusion", "curve", {"points": 1}, "fusion.points must be at least 2, or 0 for none, got 1"),
    ("fusion", "curve", {"plane": 1}, "fusion.plane must be at least 2, or 0 for none, got 1"),
    ("fusion", "curve", {"at": "best", "points": 0}, "fusion.at=best chooses among fusion.points"),
]


def target(group: str, name: str) -> str:
    return OmegaConf.load(ROOT / "conf" / group.partition(".")[0] / f"{name}.yaml")["_target_"]


@pytest.mark.parametrize("group, name, option, value, valid", OUT_OF_RANGE)
def test_an_option_out_of_range_is_named_with_what_is_valid(group, name, option, value, valid):
    with pytest.raises(ValueError) as error:
        checked_options({option: value}, group, parameters_of(target(group, name)), GIVEN.get(group, ()))
    assert str(error.value).startswith(f"{group}.{option} must be {valid}") and ", got " in str(error.value)


@pytest.mark.parametrize("group, name, options, message", IMPOSSIBLE)
def test_options_that_do_not_go_together_are_named(group, name, options, message):
    with pytest.raises(ValueError, match=message):
        build({"_target_": target(group, name)} | options, group)
