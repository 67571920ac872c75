"""Whole merges on the digits: results beside the baselines, what is reused, other sources, and mistakes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb_files
from support import command
from torch import nn

from cl.configuration.settings import MERGE_KEYS
from cl.run import experiment as training
from cl.run.folder import plain
from cl.run.network import build_network
from cl.run.plan import make_plan
from cl.run.trainer import Trainer
from merging import batch_norm, run

PLAIN = ("epochs=2", "progress=false", "pictures=[]", "scenario=class2")
SMALL = (*PLAIN, "backbone.hidden=[32]")


@pytest.fixture
def config_of(compose_config):
    def make(*overrides: str):
        return compose_config(*SMALL, "baselines=[]", *overrides, name="merge")

    return make


def results_of(config) -> dict:
    return json.loads((run.run(config)[-1] / "results.json").read_text())


def test_average_of_task_models_is_tested_like_any_run(config_of):
    config = config_of()
    *rest, folder = run.run(config)
    content = json.loads((folder / "results.json").read_text())
    assert rest == [] and (content["kind"], content["fusion"]) == ("merge", "avg")
    (trained,) = folder.parent.parent.glob("independent_*/seed0")
    states = [torch.load(trained / f"task_{t:02d}.pt")["model"] for t in range(2)]
    merged = torch.load(folder / "task_01.pt")["model"]
    for name, value in merged.items():
        assert torch.allclose(value, (states[0][name] + states[1][name]) / 2, atol=1e-7)
    of_run = json.loads((trained / "results.json").read_text())
    assert content["model_accuracy_matrix"] == of_run["accuracy_matrix"]
    for key in ("gradient_steps", "labelled_samples", "untrained_accuracy"):
        assert content[key] == of_run[key], key
    assert content["buffer_bytes"] == 2 * sum(value.nbytes for value in merged.values())
    assert len(content["accuracy_matrix"]) == 1 and content["unlabelled_samples"] == 0
    build_network(make_plan(plain(compose_run(config)))).load_state_dict(merged)


def compose_run(config):
    """The part of a merge's configuration that run.py knows."""
    from omegaconf import OmegaConf

    return OmegaConf.create({key: value for key, value in config.items() if key not in MERGE_KEYS})


def test_the_seeds_of_a_method_with_random_numbers_are_one_group(config_of):
    first, second = (results_of(config_of("fusion=dare", f"seed={seed}")) for seed in (0, 1))
    assert first["group"] == second["group"] and first["accuracy_matrix"] != second["accuracy_matrix"]
    assert first["config"]["fusion"]["seed"] == 0 and second["config"]["fusion"]["seed"] == 1


def test_nothing_is_trained_or_merged_twice(config_of, monkeypatch):
    first = results_of(config_of())
    monkeypatch.setattr(training, "run", None)
    assert results_of(config_of()) == first
    other = results_of(config_of("fusion=ties"))  # another method, the same networks
    assert other["average_accuracy"] != first["average_accuracy"]


def test_merging_after_every_task_fills_the_matrix(config_of):
    content = results_of(config_of("sequential=true", "scenario=class5", "fusion=ties"))
    assert len(content["accuracy_matrix"]) == 5
    assert content["accuracy_matrix"][0] == content["model_accuracy_matrix"][0] != content["accuracy_matrix"][1]
    assert content["forgetting"] is not None


def test_networks_of_a_run_and_of_files(config_of):
    whole = results_of(config_of("fusion=magmax"))
    trained = next(run.merge_folder(plain(config_of())).parent.parent.glob("independent_*/seed0"))
    assert results_of(config_of("fusion=magmax", f"run={trained}"))["accuracy_matrix"] == whole["accuracy_matrix"]
    files = [str(trained / f"task_{t:02d}.pt") for t in range(2)]
    average = results_of(config_of("fusion=avg"))
    assert results_of(config_of(f"checkpoints=[{','.join(files)}]"))["accuracy_matrix"] == average["accuracy_matrix"]
    with pytest.raises(ValueError, match="strategy.init=shared"):
        run.run(config_of("fusion=magmax", f"checkpoints=[{','.join(files)}]"))
    (sampled,) = run.run(config_of("fusion=avg", "weighting=samples"))
    states = [torch.load(file)["model"]["fc1.weight"] for file in (*files, sampled / "task_01.pt")]
    assert torch.allclose(states[2], (723 * states[0] + 719 * states[1]) / 1442, atol=1e-7)
    assert not torch.allclose(states[2], (states[0] + states[1]) / 2, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"task_00.pt has fc1.weight of shape \(32, 64\), in this network it is \(33, 64\)"
    ):
        run.run(config_of(f"checkpoints=[{','.join(files)}]", "backbone.hidden=[33]"))
    with pytest.raises(ValueError, match="task_00.pt was trained with scenario=class2, but this is scenario=class5"):
        run.run(config_of(f"checkpoints=[{','.join(files)}]", "scenario=class5"))
    with pytest.raises(ValueError, match="was trained with scenario=class2, but this is scenario=domain2"):
        run.run(config_of(f"run={trained}", "scenario=domain5", "scenario.num_tasks=2"))
    with pytest.raises(FileNotFoundError, match="there is no results.json"):
        run.run(config_of(f"run={trained.parent}"))
    bad = trained / "bad.pt"
    state = torch.load(files[0])
    state["model"]["fc1.weight"][0, 0] = float("inf")
    torch.save(state, bad)
    with pytest.raises(ValueError, match="bad.pt has fc1.weight with numbers that are not finite"):
        run.run(config_of(f"checkpoints=[{bad},{files[1]}]"))
    bad.write_text("no checkpoint")
    with pytest.raises(ValueError, match="bad.pt cannot be read as weights"):
        run.run(config_of(f"checkpoints=[{bad},{files[1]}]"))


def test_each_network_may_be_merged_with_the_merge_of_those_before(config_of):
    together = results_of(config_of("sequential=true", "scenario=class5"))
    one_by_one = results_of(config_of("running=true", "scenario=class5"))
    assert len(one_by_one["accuracy_matrix"]) == 5
    for row, other in zip(together["accuracy_matrix"], one_by_one["accuracy_matrix"]):  # of means it is the mean
        assert row == pytest.approx(other, abs=0.01)
    assert together["buffer_bytes"] == 5 * one_by_one["buffer_bytes"] / 2
    other = results_of(config_of("running=true", "scenario=class5", "fusion=magmax"))
    assert other["accuracy_matrix"] != results_of(config_of("scenario=class5", "fusion=magmax"))["accuracy_matrix"]
    sampled = results_of(config_of("running=true", "weighting=samples", "scenario=class5"))
    assert sampled["average_accuracy"] == pytest.approx(together["average_accuracy"], abs=0.02)


@pytest.mark.parametrize("running", [False, True])
def test_each_network_may_start_from_the_merge_of_those_before(config_of, monkeypatch, running):
    words = ("scenario=class5", "strategy.init=merged", f"running={running}", "epochs=1", "buffer.capacity=50")
    curve = ("fusion=curve", "fusion.epochs=1", "fusion.points=0", "fusion.plane=0", "fusion.samples_per_task=30")
    config = config_of(*words, *curve)
    folder = run.run(config)[-1]
    (trained,) = folder.parent.parent.glob("independent_*/seed0")
    content, of_run = (json.loads((each / "results.json").read_text()) for each in (folder, trained))
    # a curve between n networks and one more sees 30 samples of each of n + 1 tasks; anew for all, or only the last
    curves = [30 * 2, 30 * 3, 30 * 4, 30 * 5]
    merges = curves if running else [sum(curves[: n + 1]) for n in range(4)]
    assert of_run["labelled_samples"] == 1442 + sum(merges[:3])
    # the merges from which the networks started are counted in their training
    last = curves[-1] if running else sum(curves)
    assert content["labelled_samples"] - of_run["labelled_samples"] == last

    def kept(name, task):
        return torch.load(trained / name / f"task_{task:02d}.pt")["model"]

    assert all(torch.equal(value, kept("", 0)[name]) for name, value in kept("merged", 0).items())
    assert not any(torch.equal(value, kept("", 1)[name]) for name, value in kept("merged", 1).items())
    assert len(list((trained / "merged").glob("task_*.pt"))) == 4

    # killed in the fourth task, it goes on to the same bits
    again = config_of(*words, *curve, f"output={config.output}/again")
    train, calls = Trainer.train, []

    def dying(self, *arguments):
        calls.append(arguments[1])
        if calls[-1] == 3:
            raise KeyboardInterrupt
        return train(self, *arguments)

    monkeypatch.setattr(Trainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        run.run(again)
    monkeypatch.setattr(Trainer, "train", train)
    second = results_of(again)
    for key in ("accuracy_matrix", "model_accuracy_matrix", "gradient_steps", "labelled_samples"):
        assert second[key] == content[key], key


def test_the_average_as_the_start_of_every_task(config_of):
    config = config_of("scenario=class5", "strategy.init=merged", "epochs=1", "optimizer.lr=1e-12")
    run.run(config)
    shared = config_of("scenario=class5", "strategy.init=shared", "epochs=1", "optimizer.lr=1e-12")
    run.run(shared)
    first, second = (
        torch.load(path)["model"] for path in sorted(Path(config.output).rglob("independent_*/seed0/task_04.pt"))
    )
    assert all(torch.allclose(value, second[name], atol=1e-6) for name, value in first.items())  # nothing ever moved
    with pytest.raises(ValueError, match="strategy.init=merged starts each network from the merge.*use merge.py"):
        training.run(compose_run(config_of("strategy.init=merged", "seed=1")))


def test_the_merged_network_may_be_trained_on_a_few_samples(config_of):
    plain, tuned = results_of(config_of()), results_of(config_of("finetune_samples=60", "finetune_epochs=4"))
    assert tuned["average_accuracy"] > plain["average_accuracy"] + 0.05
    assert (tuned["merge_labelled_samples"], tuned["merge_gradient_steps"]) == (240, 24)
    assert tuned["buffer_bytes"] - plain["buffer_bytes"] == 60 * (64 + 16)


@pytest.mark.parametrize(
    "fusion", ["ot", "rebasin", "fisher", "regmean", "opcm", "ensemble", "dare", "slerp", "task_arithmetic"]
)
def test_every_fusion_of_the_task_models_beats_the_models_alone(config_of, fusion):
    options = {"ot": ["fusion.cost=activations"], "dare": ["fusion.drop=0.1"]}.get(fusion, [])
    content = results_of(config_of(f"fusion={fusion}", *options))
    assert content["average_accuracy"] > 0.55 > content["mean_model_accuracy"]  # alone they know one task of two
    seen = {"ot": 100, "regmean": 1000, "fisher": 723 + 719}.get(fusion, 0)
    assert content["unlabelled_samples"] == seen and content["merge_labelled_samples"] == 0


VIT = (
    "backbone=timm", "backbone.model=vit_tiny_patch16_224", "scenario=class2", "epochs=5", "optimizer.lr=0.05",
    "progress=false", "pictures=[]", "baselines=[]", "+backbone.options.img_size=8", "+backbone.options.patch_size=4",
    "+backbone.options.depth=2", "+backbone.options.embed_dim=48",
)  # fmt: skip


def test_transformers_are_merged_by_what_needs_no_alignment_and_the_rest_says_so(compose_config):
    alone = None
    for fusion in ("avg", "task_arithmetic", "ties", "magmax", "fisher", "regmean", "opcm"):
        content = results_of(compose_config(*VIT, f"fusion={fusion}", name="merge"))
        alone = alone or max(content["model_accuracies"])
        assert content["average_accuracy"] > 0.3, fusion  # ten classes
        if fusion == "regmean":
            assert content["average_accuracy"] > alone
    for fusion in ("ot", "rebasin"):
        with pytest.raises(ValueError, match=r"cannot be aligned through patch_embed \(flatten\)"):
            run.run(compose_config(*VIT, f"fusion={fusion}", name="merge"))


def test_networks_of_unequal_widths_are_merged_from_files(config_of):
    files = []
    for width, task in ((32, 0), (48, 1)):
        folder = run.run(config_of(f"backbone.hidden=[{width}]"))[-1]
        trained = next(
            path for path in folder.parent.parent.glob("independent_*/seed0/task_00.pt")
            if len(torch.load(path)["model"]["fc1.bias"]) == width
        )  # fmt: skip
        files.append(trained.with_name(f"task_{task:02d}.pt"))
    words = f"checkpoints=[{files[0]},{files[1]}]"
    content = results_of(config_of(words, "fusion=ot"))
    assert content["model_accuracies"] == pytest.approx([0.49, 0.46], abs=0.04)
    assert content["average_accuracy"] > 0.5
    with pytest.raises(ValueError, match="give backbone the widths of the anchor"):
        run.run(config_of(words, "fusion=ot", "fusion.anchor=widest"))
    with pytest.raises(
        ValueError, match=r"task_01.pt has fc1.weight of shape \(48, 64\), in this network it is \(32, 64\)"
    ):
        run.run(config_of(words, "fusion=avg"))


def test_the_published_protocol_sets_each_quirk_and_the_fair_one_none(config_of):
    words = ("scenario=skewed2", "strategy.init=independent", "fusion=curve", "fusion.points=2", "fusion.plane=0")
    words += ("schedule=constant",)
    published, fair = config_of(*words, "protocol=published"), config_of(*words)
    assert (published.optimizer_state, fair.optimizer_state) == ("epoch", "keep")
    assert (published.fusion.init, published.fusion.start, published.fusion.schedule.name) == (
        "random", "average", "linear",
    )  # fmt: skip
    assert (fair.fusion.init, fair.fusion.start, fair.fusion.schedule) == ("linear", "model", None)
    transport = config_of("fusion=ot", "protocol=published").fusion
    assert (transport.cost, transport.anchor) == ("weights", "random")
    contents = [results_of(config) for config in (published, fair)]
    assert contents[0]["average_accuracy"] != contents[1]["average_accuracy"]
    for content in contents:
        assert content["accuracy_matrix"][0][0] == content["accuracy_matrix"][0][1]  # both tests are the whole split
    folders = [run.merge_folder(plain(config)) for config in (published, fair)]
    tables = [csv.DictReader((folder / "metrics.csv").open()) for folder in folders]
    rates = [{row["learning_rate"] for row in table} for table in tables]
    assert len(rates[0]) > 1 and len(rates[1]) == 1


def test_the_table_on_colour_pictures_is_one_word_and_runs_on_a_folder_of_them(compose_config, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 4)):
        for label in range(5):
            folder = tmp_path / "pictures" / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                picture = random.integers(0, 40, (32, 32, 3)) + 43 * label
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.png")
    config = compose_config(
        "+experiment=skewed_cifar10", "protocol=published", "fusion=ot", "dataset=image_folder", "baselines=[]",
        f"dataset.root={tmp_path / 'pictures'}", f"dataset.cache={tmp_path / 'cache'}", "backbone.hidden=[20,10]",
        "epochs=2", "batch_size=16", "progress=false", "pictures=[]", name="merge",
    )  # fmt: skip
    content = results_of(config)
    assert content["config"]["dataset"]["mean"] == [0.4914, 0.4822, 0.4465]
    assert content["labelled_samples"] == 2 * 150 and content["unlabelled_samples"] == 0
    assert len(content["model_accuracies"]) == 2


@pytest.mark.parametrize("start", ["model", "average"])
def test_a_curve_may_begin_at_the_average(config_of, start):
    content = results_of(
        config_of("fusion=curve", f"fusion.start={start}", "fusion.points=3", "fusion.epochs=1", "fusion.plane=0")
    )
    average = results_of(config_of("fusion=avg"))["average_accuracy"]
    first = content["curve"]["test_accuracy"][0]
    expected = average if start == "average" else content["model_accuracies"][0]
    assert first == pytest.approx(expected, abs=0.01)


def test_methods_that_need_a_common_init_refuse_networks_without_one(config_of):
    with pytest.raises(ValueError, match="fusion=ties needs models that were trained from a common init"):
        run.run(config_of("fusion=ties", "strategy.init=independent"))


def normalised(pool: int) -> nn.Module:
    """Batch-norm over maps, dropout, and batch-norm over one value for each image."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.ReLU(), nn.AdaptiveAvgPool2d(pool), nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * pool * pool, 5), nn.BatchNorm1d(5),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("count, batch", [(40, 10), (41, 10), (41, 40), (41, 41), (5, 500)])
def test_batch_norm_statistics_are_those_of_all_images_however_they_are_cut(count, batch):
    network, images = normalised(1), torch.randn(count, 1, 6, 6) + 3 * torch.rand(count, 1, 1, 1)
    assert batch_norm.recompute(network, images, batch) == count
    with torch.no_grad():
        entered = network[0](images)
    assert torch.allclose(network[1].running_mean, entered.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network[1].running_var, entered.var((0, 2, 3)), rtol=1e-4)
    assert not any(module.training for module in network.modules()) and network[1].momentum == 0.3
    if batch < count:
        return
    # All at once, deeper layers see what torch's own layers give them in training.
    other = normalised(1)
    for layer in (other[1], other[5], other[9]):
        layer.momentum = None
        layer.train()
    other(images)
    for place in (1, 5, 9):
        assert torch.allclose(network[place].running_var, other[place].running_var, rtol=1e-4)
        assert torch.allclose(network[place].running_mean, other[place].running_mean, atol=1e-5)


def test_one_image_has_no_variance_and_networks_without_batch_norm_take_none():
    assert batch_norm.recompute(nn.Linear(2, 2), torch.randn(3, 2)) == 0
    with pytest.raises(ValueError, match="need two images or more, got 1: raise batch_norm_samples"):
        batch_norm.recompute(normalised(1), torch.randn(1, 1, 6, 6))


def test_merged_networks_with_batch_norm_get_statistics_of_their_own(compose_config):
    options = ("backbone=timm", "backbone.model=test_resnet", "batch_size=64", "batch_norm_samples=300", "baselines=[]")
    content = results_of(compose_config(*PLAIN, *options, name="merge"))
    assert content["unlabelled_samples"] == 300


def test_the_command_ends_with_one_table_of_baselines_and_merged_networks(tmp_path):
    words = [*SMALL, "epochs=1", "fusion=avg,magmax", "baselines=[finetune,er]", f"output={tmp_path}", "-m", "seed=0,1"]
    done = command(*words, script="merge.py", timeout=200)
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.rindex("scenario class2") :].partition("\n\n")[0].splitlines()
    assert [row.split("  ")[0].strip() for row in table[3:]] == [
        "finetune", "er", "a network alone (mean of 2)", "avg", "magmax",
    ]  # fmt: skip
    assert all(" 2 " in row for row in table[3:])  # seeds


def test_a_merge_has_a_run_of_wandb_of_its_own_and_ends_it(config_of, monkeypatch):
    import wandb

    words = ("logger=[wandb,tensorboard]", "logger.wandb.mode=offline")
    words = (*words, "fusion=curve", "fusion.points=0", "fusion.plane=0")
    folder = run.run(config_of(*words, "epochs=1", "fusion.epochs=1"))[-1]
    (trained,) = folder.parent.parent.glob("independent_*/seed0")
    for place in (folder, trained):
        assert wandb.run is None
    results = json.loads((folder / "results.json").read_text())
    ((merge,), (training,)) = (wandb_files.offline(place) for place in (folder, trained))
    assert (merge.run.job_type, training.run.job_type) == ("merge", "run")
    assert merge.summary["average_accuracy"] == pytest.approx(results["average_accuracy"])
    steps = [step for step, _ in merge.series("train/loss", "train/step")]
    assert steps == [int(row["step"]) for row in csv.DictReader((folder / "metrics.csv").open())] and len(steps) >= 1
    tests = merge.series("accuracy/task_00", "test/stage")
    assert tests == [(stage, row[0]) for stage, row in enumerate(results["accuracy_matrix"])]
    assert len(list(folder.glob("tensorboard/*.remerge"))) == 1
    monkeypatch.setattr(run.Merge, "fuse", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.run(config_of(*words, "epochs=1", "fusion.epochs=1", "overwrite=true"))
    assert wandb.run is None
