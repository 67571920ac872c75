"""Own options beside one's code: each example by its command alone, in sweeps, as a baseline, with ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, command

from cl.configuration import place
from cl.configuration.composing import composed
from merging.run import with_strategy

EXAMPLES = ROOT / "docs" / "examples"
PARTS = [
    ("my_strategy", "strategy", "weighted_replay"),
    ("my_policies", "buffer", "fifo"),
    ("my_data", "dataset", "columns"),
    ("my_scenario", "scenario", "dimming5"),
    ("my_network", "backbone", "one_conv"),
    ("my_optimizer", "optimizer", "sign_sgd"),
    ("my_schedule", "schedule", "inverse_root"),
    ("my_fusion", "fusion", "median"),
]
ELSEWHERE = {"my_metrics", "my_callbacks", "my_logger"}  # tested where what they extend is
SHORT = ("scenario=class2", "steps=1", "output=out", "progress=false", "pictures=[]")


def test_every_example_is_tested():
    modules, files = {path.stem for path in EXAMPLES.glob("*.py")}, EXAMPLES.glob("conf/*/*.yaml")
    assert {module for module, *_ in PARTS} == modules - ELSEWHERE
    assert {(path.parent.name, path.stem) for path in files if path.parent.name != "logger"} == {
        part[1:] for part in PARTS
    }


@pytest.mark.parametrize("module, group, name", PARTS, ids=lambda value: value)
def test_an_example_needs_its_module_and_its_file_alone_and_runs_from_any_folder(alone, tmp_path, module, group, name):
    script = "merge.py" if group == "fusion" else "run.py"
    words = ["--config-dir", alone(module, group, name), f"{group}={name}", f"trust=[{module}]"]
    words += [word for word in SHORT if word.partition("=")[0] != group]
    words += ["baselines=[]"] if group == "fusion" else ["strategy=er"] if group == "buffer" else []
    (tmp_path / "elsewhere").mkdir()
    done = command(*words, script=script, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    (content,) = [each for each in _results(tmp_path) if each["kind"] == script.removesuffix(".py")]
    assert f"{group}={name}" in content["identity"] and content["config"][group]["_target_"].startswith(
        ("my_", "cl.buffers.reference.")
    )


def test_sweeps_over_own_and_other_options_and_their_baselines(tmp_path):
    given = ("--config-dir", EXAMPLES / "conf", "trust=[my_strategy,my_network,my_fusion]", *SHORT)
    done = command(*given, "strategy=weighted_replay,er", "backbone=one_conv,mlp", "-m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {(content["strategy"], content["backbone"]) for content in _results(tmp_path)}
    assert found == {(strategy, network) for strategy in ("weighted_replay", "er") for network in ("one_conv", "mlp")}
    done = command(*given, "fusion=median,avg", "baselines=[weighted_replay]", "-m", script="merge.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {content["fusion"] for content in _results(tmp_path) if content["kind"] == "merge"} == {"median", "avg"}
    assert any(line.startswith("weighted_replay  ") for line in done.stdout.splitlines())


def test_two_ranks_have_all_of_it(tmp_path):
    parts = [part for part in PARTS if part[1] not in ("buffer", "fusion")]
    words = [f"{group}={name}" for _, group, name in parts] + [f"trust=[{','.join(module for module, *_ in parts)}]"]
    words += ["launcher=torchrun", "launcher.np=2", *SHORT[1:]]
    line = [sys.executable, ROOT / "run.py", "--config-dir", EXAMPLES / "conf", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (content,) = _results(tmp_path)
    assert content["world_size"] == 2 and {f"{group}={name}" for _, group, name in parts} <= set(content["identity"])


def test_an_option_behind_one_of_ours_is_refused(alone, tmp_path):
    folder = alone("my_strategy", "strategy", "weighted_replay")
    (folder / "strategy" / "er.yaml").write_text("{name: er, memory: true, _target_: cl.strategies.er.Er}")
    done = command("--config-dir", folder, "strategy=er", *SHORT, cwd=tmp_path)
    assert done.stderr == (
        f"error: {folder}/strategy/er.yaml has the name of a file of remerge, strategy=er, and would never be read: "
        "give it another name\n"
    )


def test_a_recipe_of_one_s_own_goes_first(alone, own):
    folder = alone("my_network", "backbone", "one_conv")
    (folder / "optimizer" / "recipe").mkdir(parents=True)
    (folder / "optimizer" / "recipe" / "one_conv.yaml").write_text(
        "defaults: [/optimizer/adam@_here_, _self_]\nlr: 0.25\n"
    )
    config = composed("run", ["backbone=one_conv"], folder)
    assert (config.optimizer.name, config.optimizer.lr, config.schedule.name) == ("adam", 0.25, "constant")


def test_a_baseline_is_trusted_like_all_else_and_may_be_made_of_another_file(own, tmp_path):
    config = {"trust": [], "strategy": {}, "buffer": {}}
    place.use(EXAMPLES / "conf")
    with pytest.raises(ValueError, match="my_strategy.WeightedReplay is no component of remerge"):
        with_strategy(config, "weighted_replay")
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "small_er.yaml").write_text(
        "defaults: [er, _self_]\nname: small_er\nreplay_batch_size: 3\n"
    )
    place.use(tmp_path / "conf")
    node = with_strategy(config, "small_er")["strategy"]
    assert (node["name"], node["replay_batch_size"], node["_target_"]) == ("small_er", 3, "cl.strategies.er.Er")


def _results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in folder.rglob("results.json")]
