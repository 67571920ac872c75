"""Options of strategies that cannot be are named in one line that says what is valid."""

import re

import pytest

from cl.build import build

TARGETS = {"er": "Er", "derpp": "Derpp", "ewc": "Ewc", "si": "Si", "lwf": "Lwf", "independent": "Independent"}
TARGETS |= {"mir": "Mir", "gem": "Gem", "cls_er": "ClsEr", "xder": "Xder"}
NEEDED = {
    "er": {"replay_batch_size": 4},
    "derpp": {"replay_batch_size": 4, "alpha": 0.5, "beta": 0.5},
    "ewc": {"lambda_": 1.0},
    "si": {"c": 0.1, "xi": 0.1},
    "mir": {"replay_batch_size": 4},
    "cls_er": {"replay_batch_size": 4, "lambda_": 1.0},
    "xder": {"replay_batch_size": 4, "alpha": 0.5, "beta": 0.5},
}


def built(name: str, options: dict):
    return build({"_target_": f"cl.strategies.{name}.{TARGETS[name]}"} | NEEDED.get(name, {}) | options, "strategy")


@pytest.mark.parametrize(
    "name, options, words",
    [
        (
            "er",
            {"replay_batch_size": True},
            "strategy.replay_batch_size must be a whole number of at least 1, got true",
        ),
        ("er", {"replay_from": 0}, "strategy.replay_from must be a whole number of at least 1, got 0"),
        ("er", {"replay_from": 1.0}, "strategy.replay_from must be a whole number of at least 1, got 1.0"),
        ("er", {"filling": "task"}, "strategy.filling must be stream or task_end, got 'task'"),
        ("er", {"weighting": "by_taks"}, "strategy.weighting must be together or by_task, got 'by_taks' (did you mean"),
        ("derpp", {"replay_batch_size": 0}, "strategy.replay_batch_size must be a whole number of at least 1, got 0"),
        ("derpp", {"alpha": "abc"}, "strategy.alpha must be a number of at least 0, got 'abc'"),
        ("derpp", {"alpha": -1}, "strategy.alpha must be a number of at least 0, got -1"),
        ("derpp", {"beta": -0.1}, "strategy.beta must be a number of at least 0 or null, got -0.1"),
        ("derpp", {"beta": None}, "strategy.beta=null belongs to strategy.folded=true: give it a number of at least 0"),
        ("derpp", {"folded": "maybe"}, "strategy.folded must be true or false, got 'maybe'"),
        ("derpp", {"folded": True}, "has no weight for the second draw: set strategy.beta=null"),
        ("ewc", {"lambda_": float("nan")}, "strategy.lambda_ must be a number of at least 0, got nan"),
        ("ewc", {"gamma": 1.5}, "strategy.gamma must be a number of at least 0 and of at most 1, got 1.5"),
        ("ewc", {"fisher_labels": True}, "strategy.fisher_labels must be all, sampled or empirical, got true"),
        ("ewc", {"fisher_samples": 0}, "strategy.fisher_samples must be a whole number of at least 1 or null, got 0"),
        ("ewc", {"anchors": "x"}, "strategy.anchors must be online or separate, got 'x'"),
        ("ewc", {"anchors": "separate", "gamma": 0.5}, "strategy.gamma=0.5 belongs to anchors=online"),
        ("mir", {"candidates": 0}, "strategy.candidates must be a whole number of at least 1, got 0"),
        ("gem", {"margin": -1}, "strategy.margin must be a number of at least 0, got -1"),
        ("gem", {"filling": "stream"}, "unknown option strategy.filling"),
        ("cls_er", {"stable_rate": 1.5}, "strategy.stable_rate must be a number of at least 0 and of at most 1"),
        ("xder", {"gamma": 1}, "strategy.gamma must be a number above 0 and below 1, got 1"),
        ("xder", {"temperature": 0}, "strategy.temperature must be a number above 0, got 0"),
        ("si", {"xi": 0}, "strategy.xi must be a number above 0, got 0"),
        ("lwf", {"temperature": None}, "strategy.temperature must be a number above 0, got null"),
        ("lwf", {"temperature_squared": 2}, "strategy.temperature_squared must be true or false, got 2"),
        ("lwf", {"warmup_steps": True}, "strategy.warmup_steps must be a whole number of at least 0, got true"),
        ("lwf", {"distilled": "new"}, "strategy.distilled must be old, seen or all, got 'new'"),
        (
            "independent",
            {"init": "share"},
            "must be shared, independent, previous or merged, got 'share'",
        ),
    ],
)
def test_options_that_cannot_be_are_named(name, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        built(name, options)


@pytest.mark.parametrize("name", TARGETS)
def test_without_a_mistake_they_are_built(name):
    assert type(built(name, {})).__name__ == TARGETS[name]
