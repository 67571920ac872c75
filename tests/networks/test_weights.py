"""Weights of other programs: every form, at every place that takes a file, gives the numbers that were saved."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from cl.configuration.settings import MERGE_KEYS
from cl.networks import weights
from cl.networks.backbones import timm_model
from cl.run import experiment
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.saving import Saver
from cl.run.session import Session
from merging.sources import Reader

SHAPE = (1, 8, 8)  # of the digits
MODEL = "test_resnet"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = timm.create_model(MODEL, in_chans=1, num_classes=10)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():  # batch-norm starts alike in every network
                value.add_(torch.rand_like(value))
            else:
                value.add_(7)
    return made


STATE = network(5).state_dict()
BFLOAT = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in STATE.items()}


def prefixed(prefix: str, state: dict = STATE) -> dict:
    return {prefix + name: value for name, value in state.items()}


def without_counters(state: dict = STATE) -> dict:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def mixed() -> dict:
    return {
        name: value.to(torch.float64 if number % 3 == 0 else torch.float32) if value.is_floating_point() else value
        for number, (name, value) in enumerate(STATE.items())
    }


def compiled_in_part() -> dict:
    return {name.replace("layer1.", "layer1._orig_mod."): value for name, value in STATE.items()}


# form -> (what is saved, the state that it means)
FORMS = {
    "plain": (STATE, STATE),
    "state_dict": ({"state_dict": STATE, "epoch": 3}, STATE),
    "model_state_dict": ({"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}}, STATE),
    "model": ({"model": STATE, "lr": 0.1, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}, STATE),
    "averaged only": ({"state_dict_ema": STATE}, STATE),
    "averaged beside": ({"state_dict_ema": prefixed("", BFLOAT), "state_dict": STATE}, STATE),
    "under another key": ({"student_weights": STATE, "epoch": 1}, STATE),
    "nested": ({"model": {"state_dict": prefixed("module.")}}, STATE),
    "module.": (prefixed("module."), STATE),
    "_orig_mod.": (prefixed("_orig_mod."), STATE),
    "model.": ({"state_dict": prefixed("model.")}, STATE),
    "backbone.": (prefixed("backbone."), STATE),
    "module._orig_mod.": ({"model": prefixed("module._orig_mod.")}, STATE),
    "module.model.": (prefixed("module.model."), STATE),
    "a prefix of its own, beside others": ({**prefixed("encoder.net."), "loss.scale": torch.ones(3)}, STATE),
    "compiled in part": (compiled_in_part(), STATE),
    "half precision": (BFLOAT, BFLOAT),
    "half precision, wrapped": ({"state_dict": prefixed("module.", BFLOAT)}, BFLOAT),
    "double and single": (mixed(), STATE),
    "no counters": (without_counters(), STATE),
    "no counters, wrapped": ({"model": prefixed("module.", without_counters(BFLOAT))}, BFLOAT),
    "counters as int32": ({k: v.int() if not v.is_floating_point() else v for k, v in STATE.items()}, STATE),
    "old file format": (STATE, STATE),
    "safetensors": (STATE, STATE),
    "safetensors in half precision, prefixed": (prefixed("module.", BFLOAT), BFLOAT),
    "safetensors by another name": (STATE, STATE),
}


def written(path: Path, form: str, content) -> Path:
    path = path / ("weights.safetensors" if form.startswith("safetensors") and "name" not in form else "weights.pt")
    if form.startswith("safetensors"):
        save_file({name: value.contiguous() for name, value in content.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "old file format")
    return path


@pytest.fixture(scope="module")
def reader():
    from hydra import compose, initialize_config_dir
    from support import ROOT

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("merge", ["backbone=timm", f"backbone.model={MODEL}", "scenario=class2", "baselines=[]"])
    base = plain(OmegaConf.create({key: value for key, value in config.items() if key not in MERGE_KEYS}))
    with Session(make_plan(base)) as session:
        yield Reader(session)


def pretrained(path: Path, reader: Reader) -> dict:
    return timm_model(SHAPE, 10, MODEL, str(path), {}).state_dict()


def checkpoints(path: Path, reader: Reader) -> dict:
    return reader.of_files([str(path)], None).states[0]


def initial(path: Path, reader: Reader) -> dict:
    other = path.with_name("other.pt")
    torch.save(STATE, other)
    return reader.of_files([str(other)], str(path)).initial


PLACES = {"backbone.pretrained": pretrained, "checkpoints": checkpoints, "initial": initial}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_numbers_come_out_of_every_form_at_every_place(form, place, tmp_path, reader):
    content, meant = FORMS[form]
    found = PLACES[place](written(tmp_path, form, content), reader)
    assert list(found) == list(STATE)
    for name, value in found.items():
        if name.endswith("num_batches_tracked") and form.startswith("no counters"):
            assert value == 0
        else:
            assert value.dtype == STATE[name].dtype and torch.equal(value, meant[name].to(value.dtype)), name


def changed(name: str, value) -> dict:
    return {**STATE, name: value}


def spoiled(number: float) -> dict:
    value = STATE["conv1.0.weight"].clone()
    value[0, 0, 0, 0] = number
    return changed("conv1.0.weight", value)


def lacking(*names: str) -> dict:
    return {name: value for name, value in STATE.items() if name not in names}


# What is wrong -> (what is saved, what is said of it after the name of the file)
WRONG = {
    "nan": (spoiled(float("nan")), "has conv1.0.weight with numbers that are not finite"),
    "infinity": ({"model": prefixed("module.", spoiled(-float("inf")))}, "has conv1.0.weight with numbers"),
    "infinite once narrowed": (
        changed("bn1.weight", torch.full_like(STATE["bn1.weight"], 1e300, dtype=torch.float64)),
        "has bn1.weight with numbers that are not finite",
    ),
    "missing": (lacking("layer1.0.conv1.weight"), "lacks layer1.0.conv1.weight of this network"),
    "missing, more": (
        lacking("layer1.0.conv1.weight", "bn1.bias"), "lacks bn1.bias and 1 more tensor of this network"
    ),
    "missing under a prefix": (
        prefixed("module.", lacking("bn1.bias")), "lacks bn1.bias of this network"
    ),
    "too many": (changed("layer9.weight", torch.ones(2)), "has layer9.weight, which this network does not have"),
    "another shape": (
        changed("bn1.bias", torch.zeros(5)), r"has bn1.bias of shape \(5,\), in this network it is \(32,\)"
    ),
    "whole numbers": (changed("bn1.bias", torch.zeros(32, dtype=torch.int8)), r"has bn1.bias as whole numbers"),
    "complex": (changed("bn1.bias", torch.zeros(32, dtype=torch.cfloat)), "has bn1.bias as complex64"),
    "sparse": (changed("bn1.bias", torch.ones(32).to_sparse()), "has bn1.bias as float32, sparse_coo"),
    "without values": (changed("bn1.bias", torch.ones(32, device="meta")), "has bn1.bias without values"),
    "two of them": (
        {**prefixed("student."), **prefixed("teacher.")}, r"several networks of these names \(student., teacher.\)"
    ),
    "two parts": ({"a": STATE, "b": STATE}, r"holds several sets of tensors \(a, b\)"),
    "another network": (
        {"blocks.0.norm.weight": torch.ones(3)},
        "has none of this network's tensors: its first is blocks.0.norm.weight, expected conv1.0.weight",
    ),
    "nothing": ({}, "holds no weights: expected tensors by name, got nothing"),
    "no tensors": ({"epoch": 3, "args": "x"}, "holds no weights: expected tensors by name, got epoch, args"),
    "a tensor": (torch.ones(3), "holds no weights: expected a state dict, got Tensor"),
    "a list": ([torch.ones(3)], "holds no weights: expected a state dict, got list"),
    "options beside": ({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, "holds argparse.Namespace, expected"),
    "a whole network": (nn.Linear(2, 2), "holds torch.nn.modules.linear.Linear, expected"),
    "a path": ({"state_dict": STATE, "output": Path("x")}, r"holds pathlib\S*, expected tensors"),
    "a page": (b"<html>404 Not Found</html>", "cannot be read as weights .expected a file of torch.save or"),
    "nothing at all": (b"", "cannot be read as weights"),
    "half a file": ("half", r"is damaged \(it is torn or changed\): put a whole copy"),
    "half safetensors": (b"\x10\0\0\0\0\0\0\0{" + b" " * 40, "cannot be read as weights"),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_used_is_one_true_line_that_names_file_and_tensor(wrong, place, tmp_path, reader):
    content, message = WRONG[wrong]
    path = tmp_path / "weights.pt"
    torch.save(STATE if content == "half" else content, path) if not isinstance(content, bytes) else None
    if content == "half":
        path.write_bytes(path.read_bytes()[:1000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    what = str(path) if place == "checkpoints" else f"{place}={path}"
    with pytest.raises(ValueError, match=message) as error:
        PLACES[place](path, reader)
    assert str(error.value).startswith(what) and "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_there_is_named(place, tmp_path, reader):
    for path, message in ((tmp_path / "none.pt", "there is no such file"), (tmp_path, "is not a file")):
        if place == "initial" and path == tmp_path:
            continue
        with pytest.raises(FileNotFoundError, match=message):
            PLACES[place](path, reader)


def test_counters_that_a_network_has_not_do_no_harm_and_numbers_must_be_whole():
    own = {"bn.weight": torch.ones(2)}
    assert list(weights.fit({**own, "bn.num_batches_tracked": torch.tensor(3)}, own, "a.pt")) == ["bn.weight"]
    with pytest.raises(ValueError, match="a.pt has places as float32, which are not int64 numbers"):
        weights.fit({"places": torch.tensor([0.5])}, {"places": torch.tensor([1])}, "a.pt")
    # what the network itself has there, a mask for example, may be infinite
    mask = {"mask": torch.tensor([0.0, -float("inf")]), "w": torch.ones(1)}
    assert torch.equal(weights.fit(mask, mask, "a.pt")["mask"], mask["mask"])


def test_a_resumed_run_names_a_damaged_file(tmp_path, compose_config):
    def dying(*_):
        raise KeyboardInterrupt

    config = compose_config("epochs=1", "backbone.hidden=[8]", "progress=false", "pictures=[]", "buffer.capacity=20")
    with pytest.MonkeyPatch.context() as patch:
        save = Saver.end_stage
        patch.setattr(Saver, "end_stage", lambda *given, **named: (save(*given, **named), dying()))
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
    (file,) = Path(config.output).rglob("task_00.pt")
    whole = file.read_bytes()
    file.write_bytes(whole[:500])
    with pytest.raises(ValueError, match="task_00.pt .*overwrite=true"):
        experiment.run(config)
    file.unlink()
    with pytest.raises(ValueError, match="task_00.pt is missing, .*overwrite=true"):
        experiment.run(config)
    file.write_bytes(whole)
    (resume,) = file.parent.glob("resume_*.pt")
    resume.write_bytes(resume.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"resume_01_000001.pt is damaged \(it is torn.*overwrite=true"):
        experiment.run(config)
