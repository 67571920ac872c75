"""Code that a configuration names is imported only where it is remerge's, or where the user's command trusts it.

The module that must not run leaves a mark when it is imported.
"""

import sys

import pytest
from omegaconf import OmegaConf
from support import QUICK, ROOT, command

from cl.atomic import write_json
from cl.build import build
from cl.checksums import read_json
from cl.configuration import trust
from cl.reporting import groups, tables
from cl.run import experiment
from cl.run.checks import check
from cl.run.folder import finished_run, plain, run_folder
from merging import run as merging

CALLBACK = "from cl.run.callbacks import Callback\nclass Timer(Callback):\n    pass\n"
METRIC = "def value(matrix, untrained):\n    return 0.5\n"
NAMED = ("+callbacks.timer._target_=strange.Timer", "+metrics.m._target_=strange.value")


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that is there once one of the modules of a user was imported."""
    mark = tmp_path / "imported"
    spoken = f"open({str(mark)!r}, 'w').close()\n"
    (tmp_path / "strange.py").write_text(spoken + CALLBACK + METRIC)
    (tmp_path / "stranger.py").write_text(spoken)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "__init__.py").touch()
    (tmp_path / "near" / "own.py").write_text(spoken + CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    for name in ("strange", "stranger", "near", "near.own"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "group",
    ["strategy", "dataset", "scenario", "backbone", "optimizer", "schedule", "loader", "logger.csv", "buffer"],
)
def test_no_group_of_a_run_may_name_strange_code(compose_config, mark, group):
    config = compose_config(f"{group}._target_=strange.value", "strategy=er", "device=cpu")
    for entry in (plain, experiment.run, finished_run):
        with pytest.raises(ValueError, match=f"^{group}._target_=strange.value is no .* add trust=.strange.$"):
            entry(config)
    assert not mark.exists() and "strange" not in sys.modules


@pytest.mark.parametrize("name, changes, key", [
    ("merge", {"fusion": {"_target_": "strange.value"}}, "fusion"),
    ("merge", {"fusion": {"schedule": {"_target_": "strange.value"}}}, "fusion.schedule"),
    ("merge", {"protocol": {"curve_schedule": {"_target_": "strange.value"}}}, "protocol.curve_schedule"),
    ("run", {"backbone": {"options": {"act_layer": {"_target_": "strange.value"}}}}, "backbone.options.act_layer"),
    ("run", {"callbacks": {"a": {"_target_": "cl.run.callbacks.Callback", "list": [1, {"_target_": "strange.value"}]}}},
     r"callbacks.a.list\[1\]"),
])  # fmt: skip
def test_nor_may_what_lies_deeper_or_belongs_to_a_merge(compose_config, mark, name, changes, key):
    config = compose_config("trust=[cl.run.callbacks]", name=name)
    OmegaConf.set_struct(config, False)
    config.merge_with(changes)
    with pytest.raises(ValueError, match=f"^{key}._target_=strange.value is no component of remerge"):
        (merging.run if name == "merge" else experiment.run)(config)
    assert not mark.exists()


@pytest.mark.parametrize("target", [
    "os.system", "builtins.exec", "torch.load", "torch.hub.load", "cl.atomic.save_tensors", "cl.build.build",
    "cl.distributed.launch.start_ranks", "torchvision.datasets.MNIST", "timm.create_model",
])  # fmt: skip
def test_what_conf_does_not_name_is_no_component(compose_config, target):
    """Also functions of our own packages and of torch: they write files, start processes or load what they are told."""
    with pytest.raises(ValueError, match=f"^dataset._target_={target} is no component"):
        plain(compose_config(f"dataset._target_={target}"))


def test_the_message_names_all_that_is_missing_and_its_remedy_works(compose_config, mark):
    words = (*NAMED, "+callbacks.near._target_=near.own.Timer", "trust=[elsewhere]", "strategy=finetune", *QUICK)
    with pytest.raises(ValueError) as error:
        plain(compose_config(*words))
    assert str(error.value) == (
        "metrics.m._target_=strange.value is no component of remerge: if you trust the code of strange and near.own, "
        "add trust=[elsewhere,strange,near.own]"
    )
    config = compose_config(*words, str(error.value).rpartition(" ")[2])
    check(plain(config))
    assert mark.exists()


@pytest.mark.parametrize("trusted, enough", [
    ("near.own", True), ("near", True), ("near.ow", False), ("nea", False), ("own", False), ("near.own.Timer", False),
])  # fmt: skip
def test_a_name_stands_for_a_module_and_what_is_below_it(compose_config, trusted, enough):
    config = compose_config("+callbacks.timer._target_=near.own.Timer", f"trust=[{trusted}]")
    if enough:
        plain(config)
        return
    with pytest.raises(ValueError, match=rf"add trust=\[{trusted},near.own\]$"):
        plain(config)


def test_trust_names_no_run(compose_config):
    assert run_folder(plain(compose_config("trust=[a,b.c]"))) == run_folder(plain(compose_config()))


def test_the_options_of_a_class_are_looked_up_after_it_is_trusted(compose_config, mark):
    with pytest.raises(ValueError, match="is no component"):
        check(plain(compose_config("strategy._target_=strange.Timer")))
    assert not mark.exists()


def test_a_file_cannot_vouch_for_itself(mark, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "gift.yaml").write_text(
        "# @package _global_\ntrust: [strange]\ncallbacks: {timer: {_target_: strange.Timer}}\n"
    )
    words = ("--config-dir", "conf", "+experiment=gift", "strategy=finetune", "scenario=class2", "output=out", *QUICK)
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, (
        "error: trust=[strange] stands in a file, and a file cannot vouch for the code that it names: if you trust it, "
        "add trust=[strange] to the command\n"
    ))  # fmt: skip
    assert not mark.exists()
    done = command(*words, "trust=[strange]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert mark.exists()


def test_what_results_say_is_never_imported(compose_config, mark, tmp_path):
    """Results come from others: a report and a merge read their configuration and import nothing of it."""
    folder = experiment.run(compose_config("strategy=independent", "scenario=class2", *QUICK))
    content = read_json(folder / "results.json")
    for group in ("strategy", "backbone", "dataset", "scenario"):
        content["config"][group]["_target_"] = "strange.value"
    content["config"]["metrics"] = {"m": {"_target_": "strange.value"}}
    content["config"]["trust"] = ["strange"]
    write_json(folder / "results.json", content | {"m": 0.5})
    assert "strange.value" in tables.as_markdown(groups.load([folder]))
    merging.run(compose_config(f"run={folder}", "scenario=class2", "baselines=[]", *QUICK, name="merge"))
    assert not mark.exists()


def test_the_components_are_those_of_the_files(compose_config):
    """Every component of a composed configuration passes, and a comparison with a YAML parser misses none."""
    expected = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        node = OmegaConf.to_container(OmegaConf.load(path))
        expected |= {target for _, target in trust.targets(node)}
    assert trust.ours() == expected and len(expected) > 60


def test_weights_are_not_loaded_by_another_way(tmp_path):
    node = {"_target_": "cl.networks.backbones.timm_model", "model": "resnet18", "pretrained": None}
    options = {"checkpoint_path": str(tmp_path / "x.pt")}
    with pytest.raises(ValueError, match="backbone.options must not have checkpoint_path"):
        build(node | {"options": options}, "backbone", sample_shape=(3, 32, 32), num_outputs=10)
