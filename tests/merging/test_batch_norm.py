"""Batch-norm like for like: networks alone and merged ones are measured with statistics of the same images."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cl.reporting.groups import load
from cl.run import experiment
from merging import run
from merging.fusion import loaded

NORMALISED = (
    "backbone=timm", "backbone.model=test_resnet", "batch_size=64", "epochs=2", "optimizer.lr=0.05",
    "scenario=class2", "progress=false", "pictures=[]",
)  # fmt: skip


STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


def merged(compose_config, *options) -> dict:
    config = compose_config(*NORMALISED, "baselines=[]", "batch_norm_samples=100", *options, name="merge")
    return json.loads((run.run(config)[-1] / "results.json").read_text())


def test_a_network_merged_with_itself_has_its_own_accuracy_and_an_ensemble_keeps_its_statistics(compose_config):
    folder = experiment.run(compose_config(*NORMALISED, "strategy=joint"))
    trained = json.loads((folder / "results.json").read_text())["accuracy_matrix"][0]
    file = folder / "task_00.pt"
    own = torch.load(file)["model"]
    for fusion in ("avg", "slerp", "last"):
        content = merged(compose_config, f"fusion={fusion}", f"checkpoints=[{file},{file}]")
        assert content["batch_norm"] == "recalibrated"
        assert content["model_accuracy_matrix"] == [content["accuracy_matrix"][0]] * 2
        assert content["model_accuracy_matrix"][0] != trained  # the images are others than those of training
        assert content["unlabelled_samples"] == 100
        state = torch.load(run.merge_folder(content["config"]) / "task_01.pt")["model"]
        changed = {name for name, value in own.items() if not torch.equal(value, state[name])}
        assert changed and all(name.rpartition(".")[2] in STATISTICS for name in changed)
    content = merged(compose_config, "fusion=ensemble", f"checkpoints=[{file},{file}]")
    assert content["batch_norm"] == "own" and content["model_accuracy_matrix"] == [trained] * 2
    assert content["accuracy_matrix"] == [trained] and content["unlabelled_samples"] == 0
    labels = {group.label["strategy"] for group in load([Path(content["config"]["output"])])}  # one table of all
    assert labels == {"joint", "avg", "slerp", "last", "ensemble"} | {
        f"network {number} alone{how}" for number in (1, 2) for how in ("", ", recalibrated")
    }


def test_where_there_is_no_batch_norm_nothing_is_said_of_it(compose_config):
    words = ("epochs=1", "backbone.hidden=[8]", "scenario=class2", "baselines=[]", "progress=false", "pictures=[]")
    for fusion in ("avg", "ensemble"):
        folder = run.run(compose_config(*words, f"fusion={fusion}", name="merge"))[-1]
        assert json.loads((folder / "results.json").read_text())["batch_norm"] is None


@pytest.mark.parametrize("width", [4, 6])
def test_weights_of_any_width_are_loaded_into_a_copy(width):
    def network(size: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, size, 3), nn.BatchNorm2d(size), nn.Flatten(), nn.Linear(16 * size, 2)).eval()

    torch.manual_seed(0)
    own, other, x = network(4), network(width), torch.randn(3, 1, 6, 6)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    copy = loaded(own, other.state_dict())
    assert torch.equal(copy(x), other(x))
    copy[1].running_mean += 1
    assert torch.equal(other[1].running_mean, torch.zeros(width))
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
