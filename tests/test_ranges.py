"""Options out of range or of another kind, one line each; what their annotations say is checked before an import."""

import pytest

from cl.build import GIVEN, build, checked_options
from cl.signatures import parameters_of

# The group, what is built, one option and its value, and what it must be.
OUT_OF_RANGE = [
    ("schedule", "cl.schedules.Constant", "warmup", -0.1, "a number of at least 0"),
    ("schedule", "cl.schedules.Cosine", "final", -0.1, "a number of at least 0 and of at most 1"),
    ("schedule", "cl.schedules.Cosine", "final", 1.1, "a number of at least 0 and of at most 1"),
    ("schedule", "cl.schedules.Linear", "final", 1.1, "a number of at least 0 and of at most 1"),
    ("schedule", "cl.schedules.Linear", "end", 1.1, "a number of at least 0 and of at most 1"),
    ("schedule", "cl.schedules.Linear", "start", -0.1, "a number of at least 0 and of at most 1"),
    ("schedule", "cl.schedules.MultiStep", "milestones", [0.0, 0.5], "a list (each a number above 0)"),
    ("schedule", "cl.schedules.MultiStep", "milestones", [-0.5], "a list (each a number above 0)"),
    ("schedule", "cl.schedules.MultiStep", "milestones", "half", "a list (each a number above 0)"),
    ("schedule", "cl.schedules.MultiStep", "gamma", [0.0], "a number above 0 or a list (each a number above 0)"),
    ("schedule", "cl.schedules.MultiStep", "gamma", -0.1, "a number above 0 or a list"),  # the rate would be negative
    ("schedule", "cl.schedules.MultiStep", "gamma", 0.0, "a number above 0 or a list"),  # nothing would be learned
    ("schedule", "cl.schedules.Step", "every", 0.0, "a number above 0"),
    ("schedule", "cl.schedules.Step", "gamma", 0.0, "a number above 0"),
    ("schedule", "cl.schedules.Cyclic", "low", 1.5, "a number of at least 0 and of at most 1"),
    ("schedule", "cl.schedules.Cyclic", "half_cycle_epochs", 0, "a number above 0 or null"),
    ("schedule", "cl.schedules.Cyclic", "half_cycle", 0, "a whole number of at least 1"),
    ("schedule", "cl.schedules.Cyclic", "mode", "round", "triangular, triangular2 or exp_range"),
    ("schedule", "cl.schedules.Cyclic", "gamma", 0.0, "a number above 0 and of at most 1"),
    ("schedule", "cl.schedules.WarmRestarts", "first", 0, "a number above 0"),
    ("schedule", "cl.schedules.WarmRestarts", "growth", 0.5, "a number of at least 1"),
    ("schedule", "cl.schedules.WarmRestarts", "final", 2, "a number of at least 0 and of at most 1"),
    ("strategy", "cl.strategies.er.Er", "replay_batch_size", True, "a whole number of at least 1"),
    ("strategy", "cl.strategies.er.Er", "replay_from", 1.0, "a whole number of at least 1"),
    ("strategy", "cl.strategies.er.Er", "replay_from", 0, "a whole number of at least 1"),
    ("strategy", "cl.strategies.er.Er", "filling", "never", "stream or task_end"),
    ("strategy", "cl.strategies.er.Er", "weighting", "by", "together or by_task"),
    ("strategy", "cl.strategies.er_ace.ErAce", "filling", "never", "stream or task_end"),
    ("strategy", "cl.strategies.agem.Agem", "replay_batch_size", 0, "a whole number of at least 1"),
    ("strategy", "cl.strategies.der.Der", "alpha", -1, "a number of at least 0"),
    ("strategy", "cl.strategies.derpp.Derpp", "replay_batch_size", 0, "a whole number of at least 1"),
    ("strategy", "cl.strategies.derpp.Derpp", "alpha", "abc", "a number of at least 0"),
    ("strategy", "cl.strategies.derpp.Derpp", "beta", -0.1, "a number of at least 0 or null"),
    ("strategy", "cl.strategies.derpp.Derpp", "distill_from", 0, "a whole number of at least 1"),
    ("strategy", "cl.strategies.derpp.Derpp", "distillation_batch_size", 0, "a whole number of at least 1 or null"),
    ("strategy", "cl.strategies.derpp.Derpp", "folded", "sure", "true or false"),
    ("strategy", "cl.strategies.ewc.Ewc", "lambda_", float("nan"), "a number of at least 0"),
    ("strategy", "cl.strategies.ewc.Ewc", "gamma", "x", "a number of at least 0 and of at most 1"),
    ("strategy", "cl.strategies.ewc.Ewc", "fisher_labels", True, "all, sampled or empirical"),
    ("strategy", "cl.strategies.ewc.Ewc", "fisher_samples", 0, "a whole number of at least 1 or null"),
    ("strategy", "cl.strategies.ewc.Ewc", "anchors", "x", "online or separate"),
    ("strategy", "cl.strategies.si.Si", "c", -1, "a number of at least 0"),
    ("strategy", "cl.strategies.si.Si", "xi", 0, "a number above 0"),
    ("strategy", "cl.strategies.lwf.Lwf", "alpha", -1, "a number of at least 0"),
    ("strategy", "cl.strategies.lwf.Lwf", "temperature", None, "a number above 0"),
    ("strategy", "cl.strategies.lwf.Lwf", "temperature_squared", "sure", "true or false"),
    ("strategy", "cl.strategies.lwf.Lwf", "outputs", "old", "seen or all"),
    ("strategy", "cl.strategies.lwf.Lwf", "distilled", "none", "old, seen or all"),
    ("strategy", "cl.strategies.lwf.Lwf", "weighting", "no", "together, sum_over_tasks or by_task"),
    ("strategy", "cl.strategies.lwf.Lwf", "warmup_steps", True, "a whole number of at least 0"),
    ("strategy", "cl.strategies.independent.Independent", "init", "x", "shared, independent, previous or merged"),
    ("fusion", "merging.opcm.Opcm", "alpha", 1.5, "a number of at least 0 and of at most 1"),
    ("fusion", "merging.ties.Ties", "keep", 0, "a number above 0 and of at most 100"),
    ("fusion", "merging.dare.Dare", "drop", 1, "a number of at least 0 and below 1"),
    ("fusion", "merging.dare.Dare", "then", "avg", "task_arithmetic or ties"),
    ("fusion", "merging.dare.Dare", "keep", 101, "a number above 0 and of at most 100"),
    ("fusion", "merging.fisher.Fisher", "labels", "one", "all, sampled or empirical"),
    ("fusion", "merging.fisher.Fisher", "samples_per_task", 0, "a whole number of at least 1 or null"),
    ("fusion", "merging.rebasin.Rebasin", "max_sweeps", 0, "a whole number of at least 1"),
    ("fusion", "merging.regmean.RegMean", "samples_per_task", 0, "a whole number of at least 1"),
    ("fusion", "merging.regmean.RegMean", "shrink", -0.5, "a number of at least 0 and of at most 1"),
    ("fusion", "merging.ot.Ot", "cost", "x", "weights or activations"),
    ("fusion", "merging.ot.Ot", "solver", "x", "emd, sinkhorn or unbalanced"),
    ("fusion", "merging.ot.Ot", "marginals", "x", "uniform or norm"),
    ("fusion", "merging.ot.Ot", "anchor", "last", "first, widest, random or barycentre"),
    ("fusion", "merging.ot.Ot", "reg", 0, "a number above 0"),
    ("fusion", "merging.ot.Ot", "reg_marginal", 0, "a number above 0"),
    ("fusion", "merging.ot.Ot", "rounds", 0, "a whole number of at least 1"),
    ("fusion", "merging.ot.Ot", "samples", 0, "a whole number of at least 1"),
    ("fusion", "merging.curve.CurveFinding", "kind", "x", "bezier or chain"),
    ("fusion", "merging.curve.CurveFinding", "init", "x", "linear or random"),
    ("fusion", "merging.curve.CurveFinding", "start", "x", "model or average"),
    ("fusion", "merging.curve.CurveFinding", "ends", "x", "models or untrained"),
    ("fusion", "merging.curve.CurveFinding", "at", 1.5, "a number of at least 0 and of at most 1 or best"),
    ("fusion", "merging.curve.CurveFinding", "at", "worst", "a number of at least 0 and of at most 1 or best"),
    ("fusion", "merging.curve.CurveFinding", "held_out", 1, "a number above 0 and below 1"),
    ("fusion", "merging.curve.CurveFinding", "points", -1, "a whole number of at least 0"),
    ("fusion", "merging.curve.CurveFinding", "samples", 0, "a whole number of at least 1"),
]  # fmt: skip

# What only all options together tell, from the constructor.
IMPOSSIBLE = [
    ("schedule", "cl.schedules.Linear", {"start": 0.9, "end": 0.5}, "schedule.start must be below schedule.end"),
    ("strategy", "cl.strategies.derpp.Derpp", {"replay_batch_size": 1, "alpha": 1, "beta": None}, "strategy.beta=null"),
    ("fusion", "merging.curve.CurveFinding", {"points": 1}, "fusion.points must be at least 2, or 0 for none, got 1"),
    ("fusion", "merging.curve.CurveFinding", {"plane": 1}, "fusion.plane must be at least 2, or 0 for none, got 1"),
]


@pytest.mark.parametrize("group, target, option, value, valid", OUT_OF_RANGE)
def test_an_option_out_of_range_is_named_with_what_is_valid(group, target, option, value, valid):
    with pytest.raises(ValueError) as error:
        checked_options({option: value}, group, parameters_of(target), GIVEN.get(group, ()))
    assert str(error.value).startswith(f"{group}.{option} must be {valid}") and ", got " in str(error.value)


@pytest.mark.parametrize("group, target, options, message", IMPOSSIBLE)
def test_options_that_do_not_go_together_are_named(group, target, options, message):
    with pytest.raises(ValueError, match=message):
        build({"_target_": target} | options, group)
