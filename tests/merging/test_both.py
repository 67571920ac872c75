"""Both schools at once: the networks after each task of a rehearsal run are merged, also averages of weights."""

import json

import pytest
import torch
from support import QUICK

from cl.run import experiment
from merging import run

WORDS = (*QUICK, "scenario=class5", "optimizer.lr=0.1")


@pytest.fixture
def rehearsal(compose_config):
    def make(*options):
        folder = experiment.run(compose_config(*WORDS, "buffer.capacity=50", *options))
        states = [torch.load(folder / f"task_{task:02d}.pt")["model"] for task in range(5)]
        return folder, json.loads((folder / "results.json").read_text()), states

    return make


@pytest.fixture
def merged(compose_config):
    def make(folder, *options):
        result = run.run(compose_config(*WORDS, f"run={folder}", "baselines=[]", *options, name="merge"))[-1]
        states = [torch.load(file)["model"] for file in sorted(result.glob("task_*.pt"))]
        return json.loads((result / "results.json").read_text()), states

    return make


def mean(states: list[dict]) -> dict:
    return {name: sum(state[name] for state in states) / len(states) for name in states[0]}


def assert_close(one: dict, other: dict) -> None:
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-6), name


@pytest.mark.parametrize("options", [
    ("strategy=er",), ("strategy=derpp", "strategy.alpha=0.2", "strategy.replay_batch_size=5"),
    ("strategy=er", "ema=0.9"), ("strategy=gdumb", "model_state=reset"),
])  # fmt: skip
@pytest.mark.parametrize("order", ["running", "sequential"])
def test_the_networks_after_each_task_are_averaged(rehearsal, merged, options, order):
    folder, trained, networks = rehearsal(*options)
    content, states = merged(folder, f"{order}=true")
    assert len(states) == len(content["accuracy_matrix"]) == 5
    for task in range(5):
        assert_close(states[task], mean(networks[: task + 1]))
    assert content["model_accuracy_matrix"] == trained["accuracy_matrix"]
    assert content["accuracy_matrix"][0] == trained["accuracy_matrix"][0]
    for key in ("gradient_steps", "labelled_samples", "forward_passes", "backward_passes"):
        assert content[key] == trained[key], key
    assert (content["merge_passes"], content["merge_gradient_steps"]) == (0, 0)
    network = sum(value.nbytes for value in networks[0].values())
    raw = "ema=0.9" in options  # training goes on with the raw weights, which are in no file
    assert content["persistent"]["networks"] == network * ((2 if order == "running" else 5) + raw)
    assert content["persistent"]["samples"] == trained["persistent"]["samples"] > 0


def test_options_of_the_strategy_have_no_say_in_the_merge_of_a_run(rehearsal, merged):
    folder, _, _ = rehearsal("strategy=er")
    plain, states = merged(folder, "running=true")
    for options in (("strategy=er", "strategy.replay_batch_size=3"), ("strategy=icarl",), ("strategy.init=previous",)):
        content, others = merged(folder, "running=true", *options)
        assert content["accuracy_matrix"] == plain["accuracy_matrix"]
        assert all(torch.equal(value, others[-1][name]) for name, value in states[-1].items())


def test_task_vectors_start_at_the_start_of_the_run_and_the_rest_is_as_for_any_networks(rehearsal, merged):
    folder, _, networks = rehearsal("strategy=er", "seed=3")
    _, states = merged(folder, "fusion=task_arithmetic", "seed=3")
    assert_close(states[-1], mean(networks))  # theta_0 + the mean of the task vectors, whatever theta_0 is
    _, (start,) = merged(folder, "fusion=untrained", "seed=3")
    _, (half,) = merged(folder, "fusion=task_arithmetic", "fusion.scale=0.1", "seed=3")
    assert_close(half, {name: 0.5 * value + 0.5 * mean(networks)[name] for name, value in start.items()})
    tuned, _ = merged(folder, "running=true", "finetune_samples=50", "finetune_epochs=2.5", "seed=3")
    # batches of 10 of 50 samples, ten of each of five tasks: with t tasks 50 // t of each
    assert tuned["merge_gradient_steps"] == sum(round(2.5 * -(-t * (50 // t) // 10)) for t in range(1, 6))
