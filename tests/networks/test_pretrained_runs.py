"""Runs and merges that begin with pretrained weights: their input, their networks, and what they record."""

import hashlib
import json

import pytest
import torch
from hub import MODEL, REVISION, TAG
from support import QUICK

from cl.build import build
from cl.networks import pretrained, weights
from cl.reporting.reading import read_results
from cl.run import experiment
from cl.run.checks import check
from cl.run.folder import plain, run_folder
from cl.run.plan import make_plan
from cl.run.session import Session
from merging import run as merging

SMALL = ("backbone=timm", f"backbone.model={MODEL}", "scenario=class2", "steps=1", *QUICK[2:])


def session_of(config) -> Session:
    return Session(make_plan(plain(config)))


@pytest.mark.parametrize("words, expected", [
    (["dataset=digits"], ([0.2], [0.5])),
    (["dataset=digits", "dataset.mean=[0.3]", "dataset.std=[0.7]"], ([0.3], [0.7])),
    (["dataset=digits", "backbone.input_statistics=dataset"], (None, None)),
])  # fmt: skip
def test_the_input_is_normalised_as_the_weights_ask_unless_the_user_says_otherwise(
    cached, compose_config, words, expected
):
    with session_of(compose_config(*SMALL, "backbone.pretrained=hf_hub:me/mine", *words)) as session:
        (mean, std), x = expected, torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
        right = x / 255 if mean is None else (x / 255 - mean[0]) / std[0]
        torch.testing.assert_close(session.transform.test(x), right)
        equal_mean = session.weights["mean"] is None if mean is None else session.weights["mean"] == pytest.approx(mean)
        assert equal_mean and session.weights["repository"] == "me/mine"


def test_a_file_and_random_weights_leave_the_data_set_s_statistics(tmp_path, served, compose_config):
    torch.save(served[0], tmp_path / "weights.pt")
    x = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    for word, known in ((tmp_path / "weights.pt", True), ("null", False)):
        with session_of(compose_config(*SMALL, f"backbone.pretrained={word}")) as session:
            assert torch.equal(session.transform.test(x), x.float() * (1 / 255))
            assert (session.weights is not None) is known


def test_all_networks_of_a_run_begin_with_them_each_with_a_classifier_of_its_own(cached, compose_config):
    with session_of(compose_config(*SMALL, "backbone.pretrained=true", "strategy=scratch")) as session:
        first, second = session.initial_weights(), session.initial_weights(1)
    for name in first:
        if name.startswith("fc."):
            assert not torch.equal(first[name], second[name])
        elif name != "conv1.0.weight":  # for one channel
            assert torch.equal(first[name], second[name]) and torch.equal(first[name].cpu(), cached[name])


def test_a_run_says_which_weights_it_had_and_a_merge_begins_with_them(cached, compose_config, capsys, tmp_path):
    words = [*SMALL, "backbone.pretrained=true"]
    folder = experiment.run(compose_config(*words, "strategy=independent"))
    assert (
        "model.safetensors of timm/test_resnet.r160_in1k at 01234567; input normalised by mean 0.5"
        in capsys.readouterr().out
    )
    content = read_results(folder / "results.json")
    digest = hashlib.sha256(pretrained.find(MODEL, True).path.read_bytes()).hexdigest()
    assert content["pretrained"] == {
        "model": TAG, "repository": f"timm/{TAG}", "revision": REVISION, "file": "model.safetensors", "sha256": digest,
        "mean": [0.5], "std": [0.5],
    }  # fmt: skip
    merged = [*words, "fusion=task_arithmetic", "fusion.scale=0", f"run={folder}", "baselines=[]"]
    *_, fused = merging.run(compose_config(*merged, name="merge"))
    state = weights.read(fused / "task_01.pt")[0]
    network = build(plain(compose_config(*words))["backbone"], "backbone", sample_shape=(1, 8, 8), num_outputs=10)
    for name, _ in network.named_parameters():
        if not name.startswith(("fc.", "conv1.0")):
            assert torch.equal(state[name], cached[name]), name
    assert read_results(fused / "results.json")["pretrained"] == content["pretrained"]
    without = [*SMALL, "fusion=avg", f"run={folder}", "baselines=[]"]
    with pytest.raises(
        ValueError, match="was trained with backbone.pretrained=true, whose mean and std .*pretrained=null"
    ):
        merging.run(compose_config(*without, name="merge"))


def test_words_name_a_run(compose_config):
    folders = {word: run_folder(plain(compose_config(*SMALL, f"backbone.pretrained={word}"))) for word in
               ("true", "yes", "null", "r160_in1k", "hf_hub:me/mine")}  # fmt: skip
    assert folders["true"] == folders["yes"] and len(set(folders.values())) == 4


def test_a_network_without_the_option_says_so(compose_config):
    node = compose_config(*QUICK)
    node = json.loads(json.dumps(plain(node)))
    node["backbone"]["pretrained"] = True
    with pytest.raises(ValueError, match="unknown option backbone.pretrained; valid: hidden, bias, init"):
        check(node)
