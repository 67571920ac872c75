"""Runs on features of a frozen part that are computed once: as those that compute them in every step; found again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import run_killed

from cl.build import SHARED
from cl.configuration import identity
from cl.data.transforms import scaled
from cl.networks import weights
from cl.reporting.reading import read_results
from cl.run import experiment
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from merging import run as merging
from merging.folder import merge_folder
from remerge.results import Run

WORDS = ("steps=8", "progress=false", "pictures=[]", "scenario=class2", "backbone.freeze=fc1", "buffer.capacity=50")
FLOATS = ("dataset=ptycho_synthetic", "scenario=reconstruction", "backbone=ptychonn")
FEATURES = 100  # of the first hidden layer


def results(config) -> dict:
    return read_results(experiment.run(config) / "results.json")


def state(config, stage: int = 1) -> dict:
    return weights.read(experiment.run(config) / f"task_{stage:02d}.pt")[0]


def files(config) -> list:
    return sorted((Path(config.output) / ".features").glob("*.npy"))


@pytest.mark.parametrize("strategy", ["derpp", "icarl", "lwf", "ewc", "scratch"])
def test_as_without_the_file_to_rounding(strategy, compose_config):
    words = [*WORDS, f"strategy={strategy}"]
    one, other = (compose_config(*words, f"backbone.cache={cache}") for cache in ("true", "false"))
    states = [state(config) for config in (one, other)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)
    contents = [results(config) for config in (one, other)]
    assert contents[0]["accuracy_matrix"] == contents[1]["accuracy_matrix"]
    frozen = 64 * FEATURES + FEATURES
    for content in contents:
        assert content["frozen"]["up_to"] == "fc1" and content["frozen"]["weights"] == frozen
        assert content["persistent"]["networks"] == contents[0]["persistent"]["networks"]
    assert contents[1]["frozen"]["features"] is None


def test_repeats_to_the_bit_with_the_file_that_is_found_and_counts_the_extraction_once(compose_config, capsys):
    config = compose_config(*WORDS, "strategy=er")
    first, told = results(config), capsys.readouterr().out
    assert "features of 1442 training pictures up to fc1: computed in" in told and len(files(config)) == 2
    before = [(path.name, path.stat().st_mtime_ns) for path in files(config)]
    again = results(compose_config(*WORDS, "strategy=er", "overwrite=true"))
    assert "features of" not in capsys.readouterr().out
    assert before == [(path.name, path.stat().st_mtime_ns) for path in files(config)]
    assert again["accuracy_matrix"] == first["accuracy_matrix"]
    entry = first["frozen"]["features"]
    assert (entry["found"], again["frozen"]["features"]["found"]) == (False, True)
    assert entry | {"found": True} == again["frozen"]["features"]
    assert entry["shape"] == [FEATURES] and entry["seconds"] > 0
    assert entry["flops"] == 1442 * 2 * 64 * FEATURES
    rest = 2 * (FEATURES * 100 + 100 * 10)
    passes = [first[name] for name in ("forward_passes", "backward_passes")]
    # backwards: the gradients of both layers' weights, and of what enters the second
    assert first["flops"] == entry["flops"] + passes[0] * rest + passes[1] * (rest + 2 * 100 * 10)
    assert first["buffer_bytes"] == 50 * (4 * FEATURES + 8 + 8)  # the memory holds features


def test_a_file_that_is_damaged_is_made_again(compose_config, capsys):
    config = compose_config(*WORDS, "strategy=finetune")
    right = state(config)
    path = next(path for path in files(config) if "training" in path.name)
    content = bytearray(path.read_bytes())
    for damaged in (content[:-100], content[:5000] + b"x" + content[5001:], b""):
        path.write_bytes(damaged)
        capsys.readouterr()
        found = state(compose_config(*WORDS, "strategy=finetune", "overwrite=true"))
        told = " ".join(capsys.readouterr().out.split())
        assert "is damaged, it is not what was written: its features are computed again" in told
        assert all(torch.equal(value, right[name]) for name, value in found.items())
    assert path.read_bytes()[:5000] == content[:5000]


def test_the_key_knows_weights_preparation_and_pictures(compose_config):
    def keys(*words) -> tuple[str, ...]:
        with Session(make_plan(plain(compose_config(*WORDS, "strategy=er", *words)))) as session:
            session.load_tasks()
            return tuple(session.features.keys)

    first = keys()
    assert first == keys() == keys("strategy=derpp", "scenario=class5", "optimizer.lr=0.5")
    others = [keys(*words) for words in (
        ["seed=1"], ["dataset.mean=[0.3]", "dataset.std=[0.7]"], ["backbone.freeze=relu1"], ["backbone.cache=float16"],
        ["backbone.input_size=9"],
    )]  # fmt: skip
    assert len({first, *others}) == 6 and not set(first) & {key for each in others for key in each}
    assert keys("dataset.validation=0.5") == first[:1]  # of the same training pictures; those of the test are not used


def test_half_precision_takes_half_the_bytes(compose_config):
    content = results(compose_config(*WORDS, "strategy=er", "backbone.cache=float16"))
    assert content["buffer_bytes"] == 50 * (2 * FEATURES + 8 + 8)
    assert content["frozen"]["features"]["dtype"] == "float16"


def test_an_interrupted_run_goes_on_to_the_same_bits(compose_config):
    words = [*WORDS, "strategy=derpp"]
    right = state(compose_config(*words))
    config = compose_config(*words, "overwrite=true")
    run_killed(config, 1)
    assert all(torch.equal(value, right[name]) for name, value in state(config).items())


@pytest.mark.parametrize("words, reason", [
    (["dataset.augment=[flip]"], r"dataset.augment=['flip'] changes pictures"),
    (["mixing.mixup=0.2"], "mixing changes pictures"),
    (["scenario=rotated10", "scenario.num_tasks=2"], "each task of scenario=rotated2 changes pictures"),
])  # fmt: skip
def test_where_pictures_change_the_frozen_part_is_computed_in_every_step(words, reason, compose_config, capsys):
    config = compose_config(*WORDS, "strategy=finetune", *words)
    content = results(config)
    told = " ".join(capsys.readouterr().out.split())
    assert told.count(f"the frozen part of the network is computed in every step: {reason}") == 1
    assert not files(config) and content["frozen"]["features"] is None
    forward, backward = 2 * (64 * FEATURES + FEATURES * 100 + 100 * 10), 2 * (FEATURES * 100 + 2 * 100 * 10)
    assert content["flops"] == content["forward_passes"] * forward + content["backward_passes"] * backward


def test_saved_networks_take_pictures(compose_config):
    folder = experiment.run(compose_config(*WORDS, "strategy=er"))
    network = Run(folder).network
    with Session(make_plan(plain(compose_config(*WORDS, "strategy=er", "backbone.cache=false")))) as session:
        tasks, _ = session.load_tasks()
        rows = tasks.testing(1, session.device)
        with torch.no_grad():
            correct = (network(session.transform.test(rows.x)).argmax(1) == rows.y).float().mean().item()
    assert correct == pytest.approx(read_results(folder / "results.json")["accuracy_matrix"][1][1])


@pytest.mark.parametrize("fusion", ["avg", "fisher", "ensemble"])
def test_merges_of_features_are_those_of_pictures(fusion, compose_config):
    contents = []
    for cache in ("true", "false"):
        config = compose_config(
            *WORDS, f"backbone.cache={cache}", f"fusion={fusion}", "baselines=[independent]", name="merge"
        )
        contents.append(read_results(merging.run(config)[-1] / "results.json"))
    assert contents[0]["accuracy_matrix"] == contents[1]["accuracy_matrix"]
    if fusion != "ensemble":
        states = [weights.read(next((folder).glob("task_*.pt")))[0] for folder in _folders(compose_config, fusion)]
        for name, value in states[0].items():
            torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)
        assert torch.equal(states[0]["fc1.weight"], states[1]["fc1.weight"])


def _folders(compose_config, fusion: str) -> list:
    words = [[*WORDS, f"backbone.cache={cache}", f"fusion={fusion}", "baselines=[independent]"] for cache in
             ("true", "false")]  # fmt: skip
    return [merge_folder(plain(compose_config(*each, name="merge"))) for each in words]


def test_a_merge_refuses_networks_with_another_frozen_part(compose_config):
    folder = experiment.run(compose_config(*WORDS, "strategy=independent"))
    words = [*WORDS, "fusion=avg", f"run={folder}", "baselines=[]", "seed=1"]
    with pytest.raises(ValueError, match="has another fc1.weight than the frozen part of this network"):
        merging.run(compose_config(*words, name="merge"))


def test_a_scenario_that_does_not_say_that_it_changes_pictures_is_found_out(compose_config, monkeypatch):
    from cl.scenarios.domains import Rotated

    monkeypatch.setattr(Rotated, "changes_pictures", False)
    with pytest.raises(ValueError, match="set changes_pictures = True in its class, or backbone.cache=false"):
        experiment.run(compose_config(*WORDS, "strategy=finetune", "scenario=rotated10"))


def test_pictures_are_scaled_as_pillow_scales_them():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 10, 10), dtype=np.uint8))
    for size in (25, 4):
        found = scaled(x, size)
        for image, ours in zip(x, found):
            right = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
            difference = np.abs(np.asarray(right).astype(int) - ours.permute(1, 2, 0).numpy().astype(int))
            assert found.dtype == torch.uint8 and difference.max() <= 1


def test_the_network_is_made_for_the_size_and_the_memory_keeps_the_pictures_as_they_are(compose_config):
    words = ["strategy=er", "buffer.capacity=50", "epochs=1", "progress=false", "pictures=[]", "scenario=class2"]
    content = results(compose_config(*words, "backbone.input_size=12"))
    assert content["buffer_bytes"] == 50 * (64 + 8 + 8)
    folder = experiment.run(compose_config(*words, "backbone.input_size=12"))
    assert weights.read(folder / "task_00.pt")[0]["fc1.weight"].shape == (100, 144)
    assert Run(folder).network(torch.zeros(1, 1, 12, 12)).shape == (1, 10)


@pytest.mark.parametrize("words, message", [
    ([*FLOATS, "backbone.input_size=32"], "the samples are float32"),
    (["backbone.input_size=0"], "backbone.input_size must be a whole number of at least 1 or null, got 0"),
])  # fmt: skip
def test_a_size_that_makes_no_sense_is_said_before_data_are_read(words, message, compose_config):
    config = plain(compose_config("strategy=finetune", "backbone.input_size=12", *words))
    with pytest.raises(ValueError, match=message), Session(make_plan(config)):
        pass


def test_neutral_options_name_no_run(compose_config):
    found = identity.words(plain(compose_config("strategy=er")))
    assert not {f"backbone.{key}" for key in SHARED["backbone"]} & found.keys()
    other = identity.words(plain(compose_config("strategy=er", "backbone.freeze=fc1")))
    assert other == found | {"backbone.freeze": "fc1"}


def test_what_is_frozen_persists_once(compose_config):
    """A hidden layer of 64 inputs is frozen; the second and the last layer are trained."""
    frozen, trained = 4 * (64 * FEATURES + FEATURES), 4 * (FEATURES * 100 + 100 + 100 * 10 + 10)
    assert results(compose_config(*WORDS, "strategy=er"))["persistent"]["networks"] == frozen + trained
    averaged = results(compose_config(*WORDS, "strategy=er", "ema=0.9"))["persistent"]["networks"]
    assert averaged == frozen + 2 * trained
    words = (*WORDS, "baselines=[]", "fusion=magmax")
    for running, kept in (("false", 2), ("true", 2)):
        config = compose_config(*words, f"running={running}", name="merge")
        merging.run(config)
        parts = read_results(merge_folder(plain(config)) / "results.json")["persistent"]
        assert parts["networks"] == frozen + kept * trained and parts["start"] == trained


@pytest.mark.parametrize("words", [("fusion=rebasin", "fusion.repair=40"), ("scenario=task5", "fusion=emr")], ids=str)
def test_merging_leaves_what_is_frozen(words, compose_config):
    config = compose_config(*WORDS, "baselines=[]", "scenario.num_tasks=2", *words, name="merge")
    merging.run(config)
    folder = merge_folder(plain(config))
    (before,) = {file.parent for file in Path(config.output).glob("*/independent*/seed0/task_00.pt")}
    own, merged = (weights.read(max(place.glob("task_*.pt")))[0] for place in (before, folder))
    for name in ("fc1.weight", "fc1.bias"):
        assert torch.equal(own[name], merged[name if name in merged else f"network.{name}"])
    assert read_results(folder / "results.json")["model_accuracy_matrix"]


@pytest.mark.parametrize("words", [("backbone.freeze=fc1",), ("backbone.lora.rank=2",)], ids=str)
def test_averages_of_a_strategy_count_what_is_trained(words, compose_config):
    config = compose_config(*WORDS[:4], "buffer.capacity=50", "strategy=cls_er", *words)
    found, saved = results(config), state(config)
    trained = sum(value.nbytes for value in saved.values())
    if "freeze" in words[0]:
        trained -= 4 * (64 * FEATURES + FEATURES)
    assert found["persistent"]["statistics"] == 2 * trained


@pytest.mark.parametrize("words", [("backbone.freeze=fc1",), ("backbone.lora.rank=2",)], ids=str)
def test_gss_scores_by_the_weights_that_are_trained(words, compose_config):
    config = compose_config(*WORDS[:4], "strategy=gss", "buffer.capacity=20", "backbone.cache=false", *words)
    assert results(config)["average_accuracy"] > 0
