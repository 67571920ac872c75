"""Runs with low-rank adapters, and merges of their networks: what is saved and counted, resume, products by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import interrupted
from omegaconf import OmegaConf
from outcomes import assert_same, outcome
from support import QUICK, run_killed

import remerge
from cl.run.experiment import run
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from merging import run as merging

pytest.importorskip("peft")
WORDS = (*QUICK, "scenario=class2", "steps=6", "backbone.lora.rank=2", "backbone.lora.alpha=4")
SAVED = {"fc1.lora_A.default.weight", "fc1.lora_B.default.weight", "fc2.weight", "fc2.bias"}


def state_of(config) -> dict[str, torch.Tensor]:
    """The weights with which a run begins, without adapters."""
    with Session(make_plan(plain(config)), adapters=False) as session:
        return {name: value.clone() for name, value in session.model.state_dict().items()}


def saved(folder, stage: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"task_{stage:02d}.pt")["model"]


def product(state: dict[str, torch.Tensor]) -> np.ndarray:
    a, b = (state[f"fc1.lora_{part}.default.weight"].double().numpy() for part in "AB")
    return b @ a


def size(state, names=None) -> int:
    return sum(value.nbytes for name, value in state.items() if names is None or name in names)


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_run_trains_saves_and_counts_adapters_alone(compose_config):
    config = compose_config(*WORDS, "strategy=er", "buffer.capacity=20", "ema=0.5")
    folder, base = run(config), state_of(config)
    states = [saved(folder, stage) for stage in range(2)]
    assert all(set(state) == SAVED for state in states)
    assert not torch.equal(states[0]["fc1.lora_B.default.weight"], states[1]["fc1.lora_B.default.weight"])
    frozen = size(base, ("fc1.weight", "fc1.bias"))
    # once what is frozen; the adapters that are trained, and their average
    assert results(folder)["persistent"]["networks"] == frozen + 2 * size(states[-1])
    network = remerge.Run(folder).networks[-1]
    expected = base["fc1.weight"].double().numpy() + 2 * product(states[-1])
    assert np.allclose(network.fc1.weight.detach().double().numpy(), expected, atol=1e-6)
    assert torch.equal(network.fc1.bias, base["fc1.bias"]) and torch.equal(network.fc2.bias, states[-1]["fc2.bias"])


def test_networks_in_other_hands_test_as_in_the_run(compose_config):
    folder = run(compose_config(*WORDS, "strategy=finetune"))
    scenario = remerge.scenario("scenario=class2", seed=0)
    row = scenario.evaluate(remerge.Run(folder).networks[-1])
    assert row == pytest.approx(results(folder)["accuracy_matrix"][-1], abs=1e-9)


def test_a_run_that_died_within_a_stage_ends_with_the_same_bits(compose_config, tmp_path):
    options = ("strategy=derpp", "buffer.capacity=20", "average=fisher", "backbone.lora.dropout=0.2")
    config = plain(compose_config(*WORDS, *options, "optimizer.momentum=0.9", "dataset.validation=0.9"))
    expected = outcome(run(OmegaConf.create(config | {"output": str(tmp_path / "whole")})))
    assert_same(expected, outcome(interrupted(config | {"output": str(tmp_path / "died")})))


def test_what_an_unfinished_run_keeps_are_adapters_of_its_own_start(compose_config):
    config = compose_config(*WORDS, "strategy=finetune", "ema=0.9")
    run_killed(config, 1)
    (file,) = Path(config.output).glob("*/*/*/resume_*.pt")
    content = torch.load(file)
    assert set(content["shared"]["network"]["trained"]) == set(content["shared"]["average"]["trained"]) == SAVED
    content["shared"]["network"]["base"] = "f" * 64
    torch.save(content, file)
    with pytest.raises(ValueError, match="adapters to other weights than those of its network now"):
        run(config)


def test_merging_adds_the_products_to_the_common_weights(compose_config):
    """theta_0 + sum of scale B_i A_i, and for the last layer the sum of the differences."""
    config = compose_config(*WORDS, "baselines=[]", "fusion=task_arithmetic", "fusion.scale=1", name="merge")
    folder = merging.run(config)[-1]
    merged = torch.load(folder / "task_01.pt")["model"]
    runs = (*WORDS, "strategy=independent", "optimizer_state=reset", f"output={config.output}")
    trained, base = run(compose_config(*runs)), state_of(compose_config(*runs))
    states = [saved(trained, stage) for stage in range(2)]
    expected = {name: value.double().numpy() for name, value in base.items()}
    for state in states:
        expected["fc1.weight"] = expected["fc1.weight"] + 2 * product(state)
        for name in ("fc2.weight", "fc2.bias"):
            expected[name] = expected[name] + state[name].double().numpy() - base[name].double().numpy()
    assert merged.keys() == expected.keys()
    for name, value in merged.items():
        assert np.allclose(value.double().numpy(), expected[name], atol=1e-5), name
    persistent = results(folder)["persistent"]
    assert persistent["networks"] == size(base, ("fc1.weight", "fc1.bias")) + 2 * size(states[0])
    assert persistent["start"] == size(base, ("fc2.weight", "fc2.bias"))  # the rest is that of the networks
    assert torch.equal(remerge.Run(folder).networks[-1].fc1.weight, merged["fc1.weight"])
    assert np.allclose(results(folder)["model_accuracy_matrix"], results(trained)["accuracy_matrix"])


@pytest.mark.parametrize("fusion", ["avg", "ties", "magmax"])
def test_other_fusions_take_the_same_networks(compose_config, fusion):
    options = (
        "steps=2",
        "baselines=[]",
        f"fusion={fusion}",
        "strategy.init=independent" if fusion == "avg" else "seed=0",
    )
    folder = merging.run(compose_config(*WORDS, *options, name="merge"))[-1]
    assert np.isfinite(results(folder)["average_accuracy"])


def test_networks_of_another_start_are_refused(compose_config):
    folder = run(compose_config(*WORDS, "strategy=independent", "steps=2"))
    content = torch.load(folder / "task_00.pt")
    torch.save(content | {"lora": content["lora"] | {"base": "f" * 64}}, folder / "task_00.pt")
    with pytest.raises(ValueError, match="task_00.pt holds adapters to the weights with the checksum ffffffff"):
        merging.run(compose_config(*WORDS, f"run={folder}", "baselines=[]", name="merge"))
    with pytest.raises(ValueError, match="task_00.pt holds adapters to the weights with the checksum ffffffff"):
        remerge.Run(folder).networks[0]


def test_networks_that_start_from_merges_have_none(compose_config):
    config = plain(compose_config("strategy=independent", "strategy.init=merged", "backbone.lora.rank=1"))
    with pytest.raises(ValueError, match="strategy.init=merged starts from merged weights"):
        make_plan(config)
