"""Learning-rate schedules: tables of exact factors, the warm-up, and what is rejected."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from cl.build import build
from cl.step.schedules import Constant, Cosine, Cyclic, Linear, MultiStep, Step, WarmRestarts

CONF = Path(__file__).resolve().parents[2] / "conf"
HALF_ROOT = 2**0.5 / 2

TABLE = [
    # schedule, progress, factor
    (Constant(), 0.0, 1.0),
    (Constant(), 0.5, 1.0),
    (Constant(), 1.0, 1.0),
    (Constant(warmup=0.2), 0.0, 0.0),
    (Constant(warmup=0.2), 0.05, 0.25),
    (Constant(warmup=0.2), 0.1, 0.5),
    (Constant(warmup=0.2), 0.2, 1.0),
    (Constant(warmup=0.2), 0.9, 1.0),
    (Linear(), 0.0, 1.0),
    (Linear(), 0.5, 1.0),
    (Linear(), 0.7, 0.505),
    (Linear(), 0.9, 0.01),
    (Linear(), 1.0, 0.01),
    (Linear(start=0.0, end=1.0, final=0.0, warmup=0.2), 0.1, 0.5),
    (Linear(start=0.0, end=1.0, final=0.0, warmup=0.2), 0.4, 0.6),
    (Cosine(), 0.0, 1.0),
    (Cosine(), 0.25, (1 + HALF_ROOT) / 2),
    (Cosine(), 1 / 3, 0.75),
    (Cosine(), 0.5, 0.5),
    (Cosine(), 2 / 3, 0.25),
    (Cosine(), 0.75, (1 - HALF_ROOT) / 2),
    (Cosine(), 1.0, 0.0),
    (Cosine(final=0.1), 0.0, 1.0),
    (Cosine(final=0.1), 0.5, 0.55),
    (Cosine(final=0.1), 1.0, 0.1),
    (Cosine(final=1.0), 0.7, 1.0),
    (Cosine(warmup=0.2), 0.0, 0.0),
    (Cosine(warmup=0.2), 0.1, 0.5),
    (Cosine(warmup=0.2), 0.2, 1.0),  # the half cosine takes what is left after the warm-up
    (Cosine(warmup=0.2), 0.6, 0.5),
    (Cosine(warmup=0.2), 1.0, 0.0),
    (Cosine(final=0.5, warmup=0.5), 0.25, 0.5),
    (Cosine(final=0.5, warmup=0.5), 0.75, 0.75),
    (MultiStep([0.7, 0.9]), 0.0, 1.0),
    (MultiStep([0.7, 0.9]), 0.69, 1.0),
    (MultiStep([0.7, 0.9]), 0.7, 0.1),  # at the milestone itself the rate is the new one
    (MultiStep([0.7, 0.9]), 0.89, 0.1),
    (MultiStep([0.7, 0.9]), 0.9, 0.01),
    (MultiStep([0.7, 0.9]), 1.0, 0.01),
    (MultiStep([0.5], gamma=0.5), 0.5, 0.5),
    (MultiStep([0.25, 0.5, 0.75], gamma=0.5), 0.8, 0.125),
    (MultiStep([0.5], warmup=0.1), 0.05, 0.5),
    (MultiStep([0.5], warmup=0.1), 0.1, 1.0),  # milestones are shares of the whole task, warm-up or not
    (MultiStep([0.5], warmup=0.1), 0.49, 1.0),
    (MultiStep([0.5], warmup=0.1), 0.5, 0.1),
]


IN_EPOCHS = [
    # schedule, progress, factor: of a task of 30 epochs with 10 steps each
    (Constant(warmup=5), 1 / 12, 0.5),
    (Constant(warmup=5), 1 / 6, 1.0),
    (Cosine(warmup=6), 0.6, 0.5),
    (Step(every=0.25, gamma=0.5), 0.24, 1.0),
    (Step(every=0.25, gamma=0.5), 0.25, 0.5),
    (Step(every=0.25, gamma=0.5), 0.99, 0.125),
    (Step(every=10), 0.33, 1.0),
    (Step(every=10), 1 / 3, 0.1),
    (Step(every=10), 0.7, 0.01),
    (MultiStep([21, 26, 28], gamma=[0.5, 0.05, 0.01]), 0.69, 1.0),
    (MultiStep([21, 26, 28], gamma=[0.5, 0.05, 0.01]), 0.7, 0.5),
    (MultiStep([21, 26, 28], gamma=[0.5, 0.05, 0.01]), 27 / 30, 0.05),
    (MultiStep([21, 26, 28], gamma=[0.5, 0.05, 0.01]), 1.0, 0.01),
    (MultiStep([21, 40]), 1.0, 0.1),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular"), 0.0, 0.2),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular"), 25 / 300, 0.6),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular"), 50 / 300, 1.0),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular"), 100 / 300, 0.2),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular"), 150 / 300, 1.0),
    (Cyclic(low=0.2, half_cycle_epochs=5, mode="triangular"), 25 / 300, 0.6),  # 30 epochs of 10 steps
    (Cyclic(low=0.2, half_cycle_epochs=5, mode="triangular"), 50 / 300, 1.0),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular2"), 150 / 300, 0.6),
    (Cyclic(low=0.2, half_cycle=50, mode="triangular2"), 250 / 300, 0.4),
    (Cyclic(low=0.2, half_cycle=50, mode="exp_range", gamma=0.99), 50 / 300, 0.2 + 0.8 * 0.99**50),
]


@pytest.mark.parametrize("schedule, progress, factor", IN_EPOCHS)
def test_factors_of_places_that_are_given_in_epochs_or_steps(schedule, progress, factor):
    assert schedule.factor(progress, epochs=30, steps=300) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("schedule, progress, factor", TABLE)
def test_factors_are_those_of_the_table(schedule, progress, factor):
    assert schedule.factor(progress) == pytest.approx(factor, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "schedule", [Constant(warmup=0.3), Cosine(warmup=0.3), Linear(warmup=0.3), MultiStep([0.8], warmup=0.3)]
)
def test_the_warm_up_rises_in_a_straight_line_and_meets_the_schedule_without_a_jump(schedule):
    for i in range(30):
        assert schedule.factor(i / 100) == pytest.approx(i / 30)
    assert schedule.factor(0.3 - 1e-9) == pytest.approx(schedule.factor(0.3), abs=1e-6) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("schedule", [Constant(), Cosine(final=0.01), MultiStep([0.2, 0.4, 0.6])])
def test_without_a_warm_up_the_rate_never_rises_and_never_is_negative(schedule):
    factors = [schedule.factor(i / 1000) for i in range(1001)]
    assert factors[0] == 1.0 and factors[-1] > 0
    assert all(later <= earlier for earlier, later in zip(factors, factors[1:]))


@pytest.mark.parametrize(
    "schedule, constant",
    [
        (Constant(), True),
        (Constant(warmup=0.1), False),
        (Cosine(), False),
        (Linear(), False),
        (MultiStep([0.5]), False),
    ],
)
def test_only_a_rate_that_never_changes_is_called_constant(schedule, constant):
    assert schedule.is_constant is constant
    assert (len({schedule.factor(i / 100) for i in range(101)}) == 1) is constant


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MultiStep([]), "schedule.milestones"),
        (lambda: MultiStep([0.9, 0.7]), "schedule.milestones"),
        (lambda: MultiStep([0.5, 1.0]), "schedule.milestones"),
        (lambda: MultiStep([0.5, 3]), "schedule.milestones"),  # a share and an epoch
        (lambda: MultiStep([60, 30]), "schedule.milestones"),
        (lambda: MultiStep([0.5], gamma=[0.1, 0.01]), "one factor for each of 1"),
        (lambda: MultiStep([0.5, 0.5]), "schedule.milestones"),  # does not rise
    ],
)
def test_impossible_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "name, factors",
    [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.5, 0.02447174185242323, 0]), ("multistep", [1, 1, 0.01, 0.01])],
)
def test_the_shipped_schedules_have_these_factors_at_the_start_the_half_nine_tenths_and_the_end(name, factors):
    node = OmegaConf.to_container(OmegaConf.load(CONF / "schedule" / f"{name}.yaml"), resolve=True)
    schedule = build(node, "schedule")
    assert [schedule.factor(progress) for progress in (0, 0.5, 0.9, 1)] == pytest.approx(factors, abs=1e-12)


@pytest.mark.parametrize("first, growth, final", [(1, 2, 0.01), (3, 1, 0.0), (2, 3, 0.2)])
def test_warm_restarts_are_those_of_torch_after_the_warm_up(first, growth, final):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, growth, eta_min=final)
    epochs, steps = 32, 5  # in each epoch; the first epoch warms up
    schedule = WarmRestarts(first, float(growth), final, warmup=1)
    assert schedule.factor(0.5 / epochs, epochs, steps * epochs) == pytest.approx(0.5)
    for step in range(steps * (epochs - 1)):
        reference.step(step / steps)
        expected = optimizer.param_groups[0]["lr"]
        found = schedule.factor((step + steps) / (steps * epochs), epochs, steps * epochs)
        assert found == pytest.approx(expected, abs=1e-9), step


def test_the_learner_of_gdumb_ends_with_the_end_of_a_cosine(compose_config):
    for experiment in ("split_mnist_gdumb", "[split_cifar10,gdumb_learner]"):
        config = compose_config(f"+experiment={experiment}")
        schedule = build(OmegaConf.to_container(config.schedule, resolve=True), "schedule")
        assert (config.strategy.name, config.buffer.insertion) == ("gdumb", "class_balanced")
        cycles, passed = 0, 1  # the first epoch warms up
        while passed < config.epochs:
            passed, cycles = passed + 2**cycles, cycles + 1
        assert passed == config.epochs
        steps = 10 * config.epochs
        rates = [0.05 * schedule.factor(step / steps, config.epochs, steps) for step in (10, steps - 1e-6)]
        assert rates == pytest.approx([0.05, 0.0005], abs=1e-6)
