"""Every file of conf/ can be used."""

import pytest
import torch
from omegaconf import OmegaConf
from support import ROOT

from cl.build import build, locate
from cl.datasets.base import Dataset
from merging.study.options import Options

CONFIGS = sorted((ROOT / "conf").glob("*/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_configuration_file_composes_and_its_target_exists(compose_config, path):
    group, option = path.parent.name, path.stem
    choice = f"+experiment={option}" if group == "experiment" else f"{group}={option}"
    config = compose_config(choice, name="merge" if group in ("fusion", "protocol", "study") else "run")
    assert "#" == path.read_text()[0] or path.read_text().startswith("name:")
    if group == "launcher":  # decides how the command itself is started, before anything is built
        assert {"name", "np"} <= config[group].keys()
    elif group == "protocol":  # flags that others refer to
        fair = OmegaConf.to_container(compose_config(name="merge").protocol)
        assert config.protocol.keys() == fair.keys() and config.protocol.name == option
    elif group == "study":
        assert Options.read(OmegaConf.to_container(config.study)).name == option
    elif group == "logger":  # each under its name, several at a time
        node = OmegaConf.to_container(config[group])
        assert node.keys() == {option} and path.read_text().startswith(f"# @package logger.{option}\n")
        assert callable(locate(node[option], group))
    elif group != "experiment":
        node = OmegaConf.to_container(config[group])
        assert {"name", "_target_"} <= node.keys()
        assert path.read_text().count("_target_:") == 1
        assert callable(locate(node, group))


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "strategy").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_strategy_file_says_whether_it_has_a_memory(compose_config, path):
    node = OmegaConf.to_container(compose_config(f"strategy={path.stem}").strategy)
    assert build(node, "strategy").uses_memory is node["memory"]


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_data_sets_know_their_shape_and_what_is_missing_before_anything_is_loaded(path, tmp_path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    if "root" in node:
        node["root"] = str(tmp_path)
    if path.stem == "image_folder":  # its classes are those of its folders
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            build(node, "dataset")
        return
    dataset = build(node, "dataset")
    assert isinstance(dataset, Dataset) and dataset.num_classes >= 10 and len(dataset.input_shape) == 3
    if "root" in node:
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            dataset.check()


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "backbone").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_backbone_brings_an_optimizer_and_a_schedule_that_can_be_built(compose_config, path):
    choice = [f"backbone={path.stem}"] + (["backbone.model=resnet18"] if path.stem == "timm" else [])
    config = OmegaConf.to_container(compose_config(*choice), resolve=True)
    weights = torch.nn.Parameter(torch.zeros(3))
    optimizer = build(config["optimizer"], "optimizer", params=[weights])
    weights.grad = torch.ones(3)
    optimizer.step()
    assert config["optimizer"]["name"] in {file.stem for file in (ROOT / "conf" / "optimizer").glob("*.yaml")}
    assert weights.abs().min() > 0
    schedule = build(config["schedule"], "schedule")
    assert 0 < schedule.factor(0.5, epochs=30, steps=300) <= 1
    others = compose_config(*choice, "optimizer=adam", "schedule=cosine")
    assert (others.optimizer.name, others.schedule.name) == ("adam", "cosine")


def test_no_recipe_is_without_its_backbone():
    backbones = {path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml")}
    for group in ("optimizer", "schedule"):
        assert {path.stem for path in (ROOT / "conf" / group / "recipe").glob("*.yaml")} == backbones
