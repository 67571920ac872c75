"""The state tree holds all that a run needs: stopped within a stage and built anew, it ends with the same bits."""

import itertools

import numpy as np
import pytest
import torch
from interrupted import STEP, resumed, stopped, whole
from PIL import Image

from cl.run.folder import plain
from cl.run.state import StateTree


@pytest.fixture
def words(tmp_path) -> list[str]:
    """Twelve colour pictures of each of four classes, for a network with dropout, with augmentation and momentum."""
    random = np.random.default_rng(0)
    for part, name, number in itertools.product(("train", "test"), "abcd", range(12)):
        folder = tmp_path / "pictures" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return [
        "dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}", f"dataset.cache={tmp_path / 'cache'}",
        "dataset.size=12", "dataset.augment=[crop,flip]", "scenario=class2", "backbone=mnistnet", "batch_size=4",
        "optimizer=sgd", "optimizer.momentum=0.9", "schedule=cosine", "epochs=2", "buffer.capacity=10",
        "progress=false", "pictures=[]",
    ]  # fmt: skip


STRATEGIES = {
    "finetune": [],
    "er": ["strategy.replay_batch_size=2", "mixing.cutmix=1.0"],
    "derpp": ["strategy.replay_batch_size=2", "buffer=reference"],
    "der": ["strategy.replay_batch_size=2", "gradient_accumulation_steps=2", "batch_size=2"],
    "er_ace": ["strategy.replay_batch_size=2", "buffer.sampling=class_balanced"],
    "agem": ["strategy.replay_batch_size=4"],
    "ewc": [],
    "si": [],
    "lwf": ["strategy.warmup_steps=5"],
    "gdumb": [],
    "icarl": [],
    "scratch": [],
    "independent": [],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_stopped_within_a_stage_goes_on_with_the_same_bits(
    compose_config, monkeypatch, tmp_path, words, strategy
):
    config = plain(compose_config(*words, f"strategy={strategy}", *STRATEGIES[strategy]))
    expected, history, steps = whole(config)
    assert steps > STEP + 1
    halfway = stopped(config | {"output": str(tmp_path / "stopped")}, tmp_path / "saved")
    assert any(not torch.equal(expected[name], value) for name, value in halfway.items())
    weights, found = resumed(config | {"output": str(tmp_path / "resumed")}, tmp_path / "saved", steps)
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
    assert found["rows"] == history["rows"]
    for key in ("gradient_steps", "labelled_samples", "passes"):
        assert found[key] == history[key]


def test_a_state_of_other_parts_is_refused():
    class Part:
        def state_dict(self):
            return {"n": 1}

        def load_state_dict(self, state):
            self.n = state["n"]

    old, new = StateTree(), StateTree()
    old.register("network", Part())
    for name in ("network", "later"):
        new.register(name, Part())
    with pytest.raises(ValueError, match="holds the state of network, and this run has network, later: .*overwrite"):
        new.load(old.shared_state(), {})
    with pytest.raises(AssertionError, match="later is registered twice"):
        new.register("later", Part(), own=True)
