"""The controls: an untrained network, and the last task's, where a merged one would be."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from cl.configuration.settings import MERGE_KEYS
from cl.run.folder import plain
from cl.run.network import build_network
from cl.run.plan import make_plan
from merging import run
from merging.context import FIRST_STAGE

SMALL = (
    "epochs=1", "progress=false", "pictures=[]", "scenario=class2", "backbone.hidden=[16]", "baselines=[]",
)  # fmt: skip


@pytest.fixture
def merged(compose_config):
    def make(*options):
        config = compose_config(*SMALL, *options, name="merge")
        folder = run.run(config)[-1]
        state = torch.load(folder / "task_01.pt")["model"]
        return json.loads((folder / "results.json").read_text()), state, folder.parent.parent, config

    return make


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def untrained(config, number: int = 0) -> dict:
    base = OmegaConf.create({key: value for key, value in config.items() if key not in MERGE_KEYS})
    return build_network(make_plan(plain(base)), number).state_dict()


@pytest.mark.parametrize("init, number", [("shared", 0), ("previous", 0), ("independent", FIRST_STAGE)])
@pytest.mark.parametrize("running", [False, True])
def test_the_untrained_network_is_the_start_or_one_that_no_task_had(merged, init, number, running):
    content, state, _, config = merged("fusion=untrained", f"strategy.init={init}", f"running={running}")
    assert equal(state, untrained(config, number))
    if not number:
        assert content["accuracy_matrix"][-1] == content["untrained_accuracy"]


@pytest.mark.parametrize("running", [False, True])
def test_the_last_network_is_that_of_the_last_task(merged, running):
    content, state, group, _ = merged("fusion=last", f"running={running}")
    (trained,) = group.glob("independent_*/seed0")
    assert equal(state, torch.load(trained / "task_01.pt")["model"])
    assert content["accuracy_matrix"][-1] == content["model_accuracy_matrix"][-1]


def test_from_files_without_a_start_an_untrained_network_is_made(merged, tmp_path):
    _, _, group, _ = merged("fusion=last")
    files = ",".join(map(str, sorted(Path(group).glob("independent_*/seed0/task_*.pt"))))
    _, state, _, config = merged("fusion=untrained", f"checkpoints=[{files}]")
    assert equal(state, untrained(config, FIRST_STAGE))


@pytest.mark.parametrize("running, passes", [(False, 1), (True, 2)])
def test_fine_tuning_a_control_has_its_samples_and_passes_and_not_the_networks(merged, running, passes):
    words = ("finetune_samples=200", "finetune_epochs=10", "optimizer.lr=0.1", f"running={running}")
    found = {name: merged(f"fusion={name}", *words)[0] for name in ("untrained", "last", "avg")}
    assert found["untrained"]["average_accuracy"] > found["untrained"]["untrained_accuracy"][0] + 0.5
    for content in found.values():
        assert content["merge_labelled_samples"] == passes * 10 * 200
    other = merged("fusion=untrained", *words, "epochs=2")[0]  # other networks, whose weights are not used
    assert other["accuracy_matrix"] == found["untrained"]["accuracy_matrix"]
