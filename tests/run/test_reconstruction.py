"""Targets in place of labels: the network, the loss, runs with their results and pictures, and what is refused."""

import json
import math

import pytest
import torch
from support import QUICK

from cl.networks.ptychonn import ptychonn
from cl.reporting.groups import load
from cl.reporting.tables import as_text
from cl.run.experiment import run
from cl.step.objectives import AbsoluteError

TINY = (
    "scenario=reconstruction", "scenario.num_tasks=2", "dataset=ptycho_synthetic", "dataset.scans=4",
    "dataset.patterns=20", "dataset.size=8", "backbone=ptychonn", "backbone.widths=[4,8]", "progress=false",
    "strategy.replay_batch_size=4", "buffer.capacity=12", "epochs=2",
)  # fmt: skip


def test_the_published_network():
    network = ptychonn((1, 64, 64), 2, [32, 64, 128, 256], batch_norm=False)
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    encoder = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    decoder = [(256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 32), (32, 32), (32, 1)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == encoder + 2 * decoder
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
    outputs = network(1e4 * torch.randn(2, 1, 64, 64))
    assert outputs.shape == (2, 2, 64, 64)
    assert outputs[:, 1].abs().max() <= math.pi + 1e-6 and outputs[:, 0].abs().max() > 4
    normed = ptychonn((1, 16, 16), 2, [4, 8], batch_norm=True)
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in normed.modules()) == 12


@pytest.mark.parametrize(
    "shape, outputs, message",
    [((1, 64, 64), 10, "scenario=reconstruction"), ((1, 36, 32), 2, "multiples of 8, got 36x32")],
)
def test_what_the_network_cannot_compute(shape, outputs, message):
    with pytest.raises(ValueError, match=message):
        ptychonn(shape, outputs, [4, 8, 8], batch_norm=False)


def test_the_loss_is_the_mean_error_of_both_targets_added_up():
    columns = {"amplitude": torch.zeros(2, 1, 2, 2), "phase": torch.full((2, 1, 2, 2), 3.0)}
    outputs = torch.zeros(2, 2, 2, 2)
    outputs[0, 0] = torch.tensor([[1.0, -1.0], [0.0, 0.0]])  # wrong by 1/2 in the mean, the phase by 3
    outputs[1, 1] = 2.0  # wrong by 1
    objective = AbsoluteError(["amplitude", "phase"])
    assert objective.measure(outputs, columns)[0].tolist() == [3.5, 1.0]
    assert objective.loss(outputs, columns).item() == 2.25


@pytest.mark.parametrize("strategy", ["er", "derpp"])
def test_a_run_measures_errors_and_draws_what_it_computes(strategy, compose_config):
    folder = run(compose_config(f"strategy={strategy}", *TINY))
    content = json.loads((folder / "results.json").read_text())
    matrix = content["error_matrix"]
    assert len(matrix) == len(matrix[0]) == 2 and all(0 < value < 5 for row in matrix for value in row)
    assert content["average_error"] == pytest.approx(sum(matrix[1]) / 2)
    assert content["error_forgetting"] == pytest.approx(matrix[1][0] - matrix[0][0])
    assert content["error_backward_transfer"] == pytest.approx(matrix[0][0] - matrix[1][0])
    assert content["learning_error"] == pytest.approx((matrix[0][0] + matrix[1][1]) / 2)
    assert "accuracy_matrix" not in content and content["buffer_bytes"] >= 12 * 3 * 8 * 8 * 4
    names = {"error_matrix.png", "average_error.png", "reconstructions.png"}
    assert names <= {path.name for path in folder.iterdir()}
    assert "error" in as_text(load([folder]))


def test_learning_lowers_the_error(compose_config):
    options = ("strategy=joint", "scenario.num_tasks=1", "epochs=30", "optimizer.lr=3e-3", "backbone.batch_norm=true")
    options += ("dataset.patterns=60", "pictures=[]", "batch_size=16", "schedule=constant")
    tiny = [option for option in TINY if not option.startswith(("strategy.", "buffer.", "epochs", "scenario.num"))]
    folder = run(compose_config(*tiny, *options))
    content = json.loads((folder / "results.json").read_text())
    assert content["average_error"] < 0.7 * content["untrained_error"][0]


@pytest.mark.parametrize("strategy", ["agem", "der", "gdumb", "si", "joint", "scratch", "independent"])
def test_strategies_without_classes_work(strategy, compose_config):
    tiny = [option for option in TINY if not option.startswith(("strategy.", "epochs"))]
    folder = run(compose_config(f"strategy={strategy}", *tiny, "epochs=1", "pictures=[]"))
    assert json.loads((folder / "results.json").read_text())["average_error"] < 5


@pytest.mark.parametrize("strategy", ["er_ace", "ewc", "lwf", "icarl"])
def test_strategies_with_classes_are_refused(strategy, compose_config):
    tiny = [option for option in TINY if not option.startswith("strategy.")]
    with pytest.raises(ValueError, match=f"strategy={strategy} is defined by labels"):
        run(compose_config(f"strategy={strategy}", *tiny))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["scenario=reconstruction"], "needs a data set with targets: dataset=ptycho"),
        (["dataset=ptycho_synthetic", "backbone=ptychonn"], "scenario=reconstruction"),
        (["scenario=reconstruction", "dataset=ptycho_synthetic"], r"expected \(2, 32, 32\) for the targets amplitude"),
        (["scenario=reconstruction", "dataset=ptycho_synthetic", "dataset.augment=[flip]"], "another object"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message, compose_config):
    with pytest.raises(ValueError, match=message):
        run(compose_config(*overrides, "progress=false"))


def test_networks_without_labels_are_not_merged(compose_config):
    from merging.run import run as merge

    tiny = [option for option in TINY if not option.startswith(("strategy.", "buffer."))]
    with pytest.raises(ValueError, match="scenario=reconstruction has no labels"):
        merge(compose_config(*tiny, "baselines=[]", name="merge"))


@pytest.mark.parametrize("strategy", ["finetune", "er", "si"])
def test_mixed_images_train(strategy, compose_config):
    mixing = ["mixing.mixup=0.4", "mixing.cutmix=1.0"]
    folder = run(compose_config(f"strategy={strategy}", "scenario=task5", *mixing, *QUICK))
    content = json.loads((folder / "results.json").read_text())
    assert content["learning_accuracy"] > 0.8


@pytest.mark.parametrize(
    "overrides", [["strategy=derpp"], ["strategy=agem"], ["strategy=er", "strategy.weighting=by_task"]]
)
def test_mixing_is_refused_where_the_loss_is_not_one_mean(overrides, compose_config):
    with pytest.raises(ValueError, match="mixing=.* needs a loss that is one cross entropy"):
        run(compose_config(*overrides, "mixing.mixup=0.4", *QUICK))
