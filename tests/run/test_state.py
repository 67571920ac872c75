"""A checkpoint holds all that a run needs: one that died within a stage ends with the same bits as one that did not."""

import itertools

import numpy as np
import pytest
from interrupted import STAGE, STEP, Died, dying, interrupted, run
from outcomes import assert_same, outcome
from PIL import Image

from cl.run.checkpoint import Checkpoints
from cl.run.folder import plain, run_folder
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
        "log_interval=2", "progress=false", "pictures=[]",
    ]  # fmt: skip


STRATEGIES = {
    "finetune": [],
    "er": ["strategy.replay_batch_size=2", "mixing.cutmix=1.0", "ema=0.9"],
    "derpp": ["strategy.replay_batch_size=2", "buffer=reference"],
    "der": ["strategy.replay_batch_size=2", "gradient_accumulation_steps=2", "batch_size=2"],
    "er_ace": ["strategy.replay_batch_size=2", "buffer.sampling=class_balanced", "optimizer_state=epoch"],
    "agem": ["strategy.replay_batch_size=4", "dataset.stream=true"],
    "ewc": ["model_state=reset"],
    "si": [],
    "lwf": ["strategy.warmup_steps=5"],
    "gdumb": [],
    "icarl": [],
    "scratch": [],
    "independent": [],
    "joint": [],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_died_within_a_stage_ends_with_the_same_bits(compose_config, monkeypatch, tmp_path, words, strategy):
    config = plain(compose_config(*words, f"strategy={strategy}", *STRATEGIES[strategy]))
    config["checkpoint"]["every"] = None
    if strategy == "joint":  # one stage only
        monkeypatch.setattr("interrupted.STAGE", 0)
    found = []
    take = Checkpoints._take
    monkeypatch.setattr(Checkpoints, "_take", lambda self, at, content: (found.append(at), take(self, at, content)))
    expected = outcome(run(config | {"output": str(tmp_path / "whole")}))
    again = outcome(interrupted(config | {"output": str(tmp_path / "died")}))
    assert [(at.stage, at.step) for at in found] == [(0 if strategy == "joint" else STAGE, STEP)]
    assert_same(expected, again)


def test_a_run_with_dropout_is_the_same_with_streamed_pictures(compose_config, tmp_path, words):
    config = plain(compose_config(*words, "strategy=finetune", "loader.workers=0"))
    found = []
    for stream in (False, True):
        place = {"output": str(tmp_path / f"{stream}"), "dataset": config["dataset"] | {"stream": stream}}
        found.append(outcome(run(config | place)))

    assert_same(*found)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(compose_config, capsys, tmp_path, words):
    config = plain(compose_config(*words, "strategy=er", "checkpoint.every=2"))
    expected = outcome(run(config | {"output": str(tmp_path / "whole")}))
    folder = run_folder(config)
    for victim in ("resume_01_000004.pt", "buffer_01_000004_rank_0.pt"):
        with dying(lambda stage, step: (stage, step) == (1, 5)), pytest.raises(Died):
            run(config | {"overwrite": True})
        names = sorted(path.stem for path in folder.glob("*_0*.pt") if not path.stem.startswith("task"))
        assert names == [
            f"{kind}_01_00000{step}{of}" for kind, of in (("buffer", "_rank_0"), ("resume", "")) for step in (2, 4)
        ]
        content = bytearray((folder / victim).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / victim).write_bytes(content)
        capsys.readouterr()
        assert run(config) == folder
        said = capsys.readouterr().out
        assert victim in said and "goes on from the checkpoint before it, resume_01_000002.pt" in said
        assert_same(expected, outcome(folder))


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
        new.load(old.shared_state(), [{}])
    with pytest.raises(AssertionError, match="later is registered twice"):
        new.register("later", Part(), own=True)
