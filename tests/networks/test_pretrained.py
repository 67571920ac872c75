"""Pretrained weights by word: from a cache and a server in the hub's layout, which the tests make; no network is asked.

What is served must be in the network, tensor by tensor, and its mean and std at the network's input.
"""

import hashlib
import multiprocessing
import time

import pytest
import torch
from hub import CFG, MODEL, REVISION, TAG, Hub, files_of, fill_cache, random_model
from huggingface_hub import constants

from cl.networks import pretrained
from cl.networks.backbones import resnet_cifar, timm_model


def equal(network: torch.nn.Module, state: dict, but: tuple[str, ...]) -> None:
    own = network.state_dict()
    assert own.keys() == state.keys()
    for name, value in own.items():
        same = value.shape == state[name].shape and torch.equal(value, state[name])
        assert same is not name.startswith(but), name


@pytest.mark.parametrize("word", [True, "r160_in1k", TAG, "hf_hub:me/mine", f"hf-hub:me/mine@{REVISION}"])
def test_the_weights_in_the_cache_are_those_of_the_network_but_for_its_classifier(word, cached):
    network = timm_model((3, 32, 32), 10, MODEL, word, {})
    equal(network, cached, but=("fc.",))
    of_timm = not str(word).startswith("hf")
    assert network.input_statistics == (([0.5] * 3, [0.5] * 3) if of_timm else (CFG["mean"], CFG["std"]))
    about = network.pretrained_from
    assert about["repository"] == (f"timm/{TAG}" if of_timm else "me/mine") and about["revision"] == REVISION
    path = pretrained.find(MODEL, word).path
    assert about["file"] == path.name and about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_as_many_classes_as_the_weights_have_keep_the_classifier(cached):
    equal(timm_model((3, 32, 32), 1000, MODEL, True, {}), cached, but=("none",))


def test_the_classifier_begins_as_without_pretrained_weights(cached):
    torch.manual_seed(3)
    with_weights = timm_model((3, 32, 32), 10, MODEL, True, {})
    torch.manual_seed(3)
    assert torch.equal(with_weights.fc.weight, timm_model((3, 32, 32), 10, MODEL, None, {}).fc.weight)


def test_one_channel_adds_up_the_three_and_is_normalised_by_their_mean(cached):
    network = timm_model((1, 8, 8), 10, MODEL, "hf_hub:me/mine", {})
    first = network.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(first, cached["conv1.0.weight"].sum(1, keepdim=True))
    mean, std = network.input_statistics
    assert mean == pytest.approx([0.2]) and std == pytest.approx([0.5])
    assert pretrained.statistics(CFG, 4) == ([0.1, 0.2, 0.3, 0.1], [0.4, 0.5, 0.6, 0.4])


def test_a_transformer_s_positions_are_made_for_the_size_of_the_pictures(home):
    network = random_model("test_vit", 2)
    fill_cache(home, "timm/test_vit.r160_in1k", files_of(network, "test_vit"))
    made = timm_model((3, 32, 32), 10, "test_vit", True, {})
    assert made.pos_embed.shape[1] < network.pos_embed.shape[1]
    equal(made, network.state_dict(), but=("pos_embed", "head."))
    assert made(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_folder_in_the_hub_s_layout_and_the_stem_for_small_pictures(home, tmp_path):
    options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    network = random_model("resnet18", 4, **options)
    folder = fill_cache(tmp_path / "elsewhere", "me/small", files_of(network, "resnet18", **CFG))
    made = resnet_cifar((3, 32, 32), 10, "resnet18", str(folder), options)
    equal(made, network.state_dict(), but=("conv1.weight", "fc."))
    assert made.conv1.kernel_size == (3, 3) and made.input_statistics == (CFG["mean"], CFG["std"])


def test_what_is_missing_is_downloaded_once_by_all_processes_and_then_never_again(home, served, monkeypatch):
    hub = Hub(served[1])
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    processes = [
        multiprocessing.get_context("fork").Process(target=pretrained.find, args=(MODEL, True)) for _ in "1234"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert hub.downloads("model.safetensors") == 1
    equal(timm_model((3, 32, 32), 10, MODEL, True, {}), served[0], but=("fc.",))
    asked = hub.asked.copy()
    pretrained.find.cache_clear()
    pretrained.find(MODEL, "hf_hub:me/mine")  # not there yet
    assert hub.downloads("config.json") == 1
    pretrained.find.cache_clear()
    seen = hub.asked.copy()
    assert asked != seen
    pretrained.find(MODEL, True)
    pretrained.find(MODEL, "hf_hub:me/mine")
    assert hub.asked == seen
    with pytest.raises(
        OSError, match=f"needs config.json of the repository no/such, .* cannot be had from {hub.url}: "
    ):
        pretrained.find(MODEL, "hf_hub:no/such")
    hub.close()


def test_without_a_network_one_line_says_at_once_what_is_wanted_and_how_to_put_it_there(home, monkeypatch):
    started = time.perf_counter()
    for reason in ("Connection refused", "HF_HUB_OFFLINE is set"):
        with pytest.raises(OSError) as error:
            timm_model((3, 32, 32), 10, MODEL, True, {})
        text = str(error.value)
        assert text.startswith(
            f"backbone.pretrained=true needs model.safetensors of the repository timm/{TAG}, which is"
        )
        for part in (
            reason,
            str(home / "hub"),
            f"`hf download timm/{TAG} model.safetensors`",
            "backbone.pretrained=FILE",
        ):
            assert part in text and "\n" not in text
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("model, word, message", [
    (MODEL, "r160_in2k", "pretrained=r160_in2k is neither a file nor a tag of timm for test_resnet .did you mean "
     "r160_in1k.*valid: true, r160_in1k, hf_hub:USER/MODEL, or a file"),
    ("ghostnet_050", True, "timm has no pretrained weights for ghostnet_050 .did you mean ghostnet_100"),
    (MODEL, False, "backbone.pretrained must be true, a name, a file, or null for random weights, got false"),
    (MODEL, "hf_hub:a/b/c", "'a/b/c' is no name of a repository"),
    ("test_vit", "hf_hub:me/mine", "hf_hub:me/mine has weights of test_resnet, expected those of .*model=test_vit"),
])  # fmt: skip
def test_weights_that_cannot_be_are_one_line(model, word, message, cached):
    with pytest.raises(ValueError, match=message):
        timm_model((3, 32, 32), 10, model, word, {})


def test_weights_that_do_not_fit_and_files_that_are_damaged(home, served):
    place = fill_cache(home, f"timm/{TAG}", files_of(random_model(MODEL, 1), MODEL))
    cut = dict(served[0])
    cut.pop("layer1.0.conv1.weight")
    torch.save(cut, place / "pytorch_model.bin")
    (place / "model.safetensors").rename(place / "kept")
    with pytest.raises(
        ValueError, match="pytorch_model.bin. cannot be loaded into timm's test_resnet: .*layer1.0.conv1"
    ):
        timm_model((3, 32, 32), 10, MODEL, True, {})
    (place / "kept").rename(place / "model.safetensors")
    blob = (place / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    pretrained.find.cache_clear()
    with pytest.raises(ValueError, match="model.safetensors is damaged, its checksum is not its name: remove"):
        timm_model((3, 32, 32), 10, MODEL, True, {})


def test_weights_by_address_come_from_torch_s_cache_or_the_server(home, tmp_path):
    content = b"some bytes"
    digest = hashlib.sha256(content).hexdigest()
    hub = Hub({"a/b": {f"net-{digest[:8]}.pth": content, "net-00000000.pth": content}})
    url = f"{hub.url}/a/b/resolve/main/net-{digest[:8]}.pth"
    for _ in range(2):
        path, about = pretrained._from_url(url, "it")
        assert path.read_bytes() == content and about == {"file": path.name, "sha256": digest, "url": url}
    assert hub.downloads(".pth") == 1
    with pytest.raises(OSError, match="it needs net-00000000.pth, which is not in the cache .*: invalid hash value"):
        pretrained._from_url(f"{hub.url}/a/b/resolve/main/net-00000000.pth", "it")
    hub.close()
    with pytest.raises(OSError, match="it needs other.pth, .*TORCH_HOME.* cannot be had from .*: "):
        pretrained._from_url(f"{hub.url}/other.pth", "it")


def test_a_file_is_what_it_was(tmp_path, served):
    path = tmp_path / "weights.pt"
    torch.save(served[0], path)
    network = timm_model((3, 32, 32), 10, MODEL, str(path), {})
    equal(network, served[0], but=("fc.",))
    assert not hasattr(network, "input_statistics")
    assert [pretrained.is_file(word) for word in (str(path), "no/such", "x.safetensors", "a1_in1k", True)] == [
        True, True, True, False, False,
    ]  # fmt: skip
