"""A checkpoint holds all that a run needs: one that died within a stage ends with the same bits as one that did not."""

import itertools

import numpy as np
import pytest
import torch
from interrupted import STAGE, STEP, Died, dying, interrupted, run
from outcomes import assert_same, outcome
from PIL import Image

from cl.distributed.comm import Comm
from cl.run.checkpoint import Checkpoints, Position
from cl.run.folder import plain, run_folder
from cl.run.state import StateTree
from cl.run.training import Training


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
    "gem": ["gradient_accumulation_steps=2", "batch_size=2"],
    "cls_er": ["strategy.replay_batch_size=2"],
    "ewc": ["model_state=reset"],
    "fdr": ["strategy.replay_batch_size=2", "dataset.stream=true"],
    "si": [],
    "lwf": ["strategy.warmup_steps=5"],
    "gdumb": [],
    "gss": ["strategy.replay_batch_size=2", "dataset.stream=true", "mixing.mixup=0.5"],
    "icarl": [],
    "lucir": ["strategy.scale=5"],
    "wa": ["model_state=reset"],
    "bic": ["strategy.held_out=0.5", "gradient_accumulation_steps=2", "batch_size=2"],
    "mir": ["strategy.replay_batch_size=2", "strategy.candidates=5", "mixing.mixup=0.5"],
    "xder": ["dataset.stream=true", "strategy.replay_batch_size=2", "batch_size=3", "gradient_accumulation_steps=2"],
    "scratch": [],
    "independent": [],
    "joint": [],
    "scr": ["strategy.replay_batch_size=2"],
    "mas": ["dataset.stream=true"],
    "ncm": ["dataset.stream=true"],
    "slda": ["batch_size=2", "gradient_accumulation_steps=2"],
    "ranpac": ["strategy.num_features=9"],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_died_within_a_stage_ends_with_the_same_bits(compose_config, monkeypatch, tmp_path, words, strategy):
    config = plain(compose_config(*words, f"strategy={strategy}", *STRATEGIES[strategy]))
    config["checkpoint"]["every"] = None
    if strategy == "joint":  # one stage only
        monkeypatch.setattr("interrupted.STAGE", 0)
    found, load = [], Checkpoints.load
    monkeypatch.setattr(Checkpoints, "load", lambda self: (found.append(load(self)), found[-1])[1])
    expected = outcome(run(config | {"output": str(tmp_path / "whole")}))
    again = outcome(interrupted(config | {"output": str(tmp_path / "died")}))
    assert [at and (at.stage, at.step) for at in found] == [None, None, (0 if strategy == "joint" else STAGE, STEP)]
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
    for victim in ("resume_01_000009.pt", "buffer_01_000009_rank_0.pt"):
        with dying(lambda stage, step: (stage, step) == (1, 5)), pytest.raises(Died):
            run(config | {"overwrite": True})
        names = sorted(path.stem for path in folder.glob("*_0*.pt") if not path.stem.startswith("task"))
        assert names == [
            f"{kind}_01_00000{save}{of}" for kind, of in (("buffer", "_rank_0"), ("resume", "")) for save in (8, 9)
        ]
        content = bytearray((folder / victim).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / victim).write_bytes(content)
        capsys.readouterr()
        assert run(config) == folder
        said = capsys.readouterr().out
        assert victim in said and "goes on from the checkpoint before it, resume_01_000008.pt" in said
        assert_same(expected, outcome(folder))


def test_what_overwrite_began_goes_on_with_it(compose_config, tmp_path, words, monkeypatch):
    """A run that overwrites is interrupted like any other; one that was begun without it begins again."""
    config = plain(compose_config(*words, "strategy=er", "checkpoint.every=2", "epochs=1"))
    expected = outcome(run(config | {"output": str(tmp_path / "whole")}))
    found, load = [], Checkpoints.load
    monkeypatch.setattr(Checkpoints, "load", lambda self: (found.append(load(self)), found[-1])[1])
    for overwrites in ((False, True), (True, True), (True, False)):
        for overwrite in overwrites[:1]:
            with dying(lambda stage, step: (stage, step) == (1, 4)), pytest.raises(Died):
                run(config | {"overwrite": overwrite})
        folder = run(config | {"overwrite": overwrites[1]})
        assert_same(expected, outcome(folder))
        (folder / "results.json").unlink()
    assert [at and (at.stage, at.step) for at in found] == [None, None, None, (1, 4), None, (1, 4)]


def test_a_callback_that_draws_at_the_start_changes_no_resumed_run(compose_config, tmp_path, words, monkeypatch):
    config = plain(compose_config(*words, "strategy=finetune", "epochs=1"))
    start = Training._start_callbacks
    monkeypatch.setattr(Training, "_start_callbacks", lambda self, at: (torch.rand(7), start(self, at)))
    expected = outcome(run(config | {"output": str(tmp_path / "whole")}))
    assert_same(expected, outcome(interrupted(config | {"output": str(tmp_path / "died")})))


def test_the_last_save_is_the_newest_also_when_steps_became_fewer(tmp_path):
    class Part:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    tree = StateTree()
    tree.register("part", Part())
    one = Checkpoints(tmp_path, tree, Comm(), torch.device("cpu"))
    for step in (100, 50):
        one.save(Position(0, step, 2 * step))
    one.wait()
    again = Checkpoints(tmp_path, tree, Comm(), torch.device("cpu"))
    assert again.load() == Position(0, 50, 100)
    again.save(Position(0, 40, 100))
    again.close()
    assert Checkpoints(tmp_path, tree, Comm(), torch.device("cpu")).load().step == 40
    with pytest.raises(ValueError, match="was saved on cpu, and this is meta, .*device=cpu goes on"):
        Checkpoints(tmp_path, tree, Comm(), torch.device("meta")).load()


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
