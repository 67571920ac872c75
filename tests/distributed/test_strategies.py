"""Every strategy computes the same with two ranks as with one process and batches twice as large."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT

from cl import experiment

# One memory for all ranks is another one than that of one process, unless all of it is drawn.
EXACT = ["agem", "ewc", "icarl", "lwf", "si"]
WITH_OTHER_DRAWS = ["der", "er_ace", "gdumb"]
WORDS = (
    "scenario=class2", "epochs=1", "backbone.hidden=[32]", "optimizer.lr=0.02", "buffer.capacity=20", "progress=false",
    "pictures=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory) -> dict[str, dict]:
    """Results and last weights of each strategy, all trained by the same two ranks, one after the other."""
    folder = tmp_path_factory.mktemp("ranks")
    if importlib.util.find_spec("horovod") is None:
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    else:
        start = [str(Path(sys.executable).with_name("horovodrun")), "-np", "2", "--gloo", sys.executable]
    choice = "strategy=" + ",".join(EXACT + WITH_OTHER_DRAWS)
    line = [*start, str(ROOT / "run.py"), *WORDS, choice, "batch_size=5", "passes=2", f"output={folder}", "-m"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {}
    for path in folder.rglob("results.json"):
        content = json.loads(path.read_text())
        found[content["strategy"]] = content | {"weights": torch.load(path.with_name("task_01.pt"))["model"]}
    return found


@pytest.mark.parametrize("strategy", EXACT)
def test_two_ranks_equal_one_process(compose_config, of_two_ranks, strategy):
    folder = experiment.run(compose_config(*WORDS, f"strategy={strategy}", "batch_size=20"))
    several, alone = of_two_ranks[strategy], json.loads((folder / "results.json").read_text())
    assert several["world_size"] == 2
    for key in ("accuracy_matrix", "gradient_steps", "buffer_bytes"):
        assert several[key] == alone[key], key
    for name, value in torch.load(folder / "task_01.pt")["model"].items():
        assert torch.allclose(value, several["weights"][name], rtol=0, atol=5e-6), name


def test_strategies_with_draws_of_their_own_train_on_two_ranks(of_two_ranks):
    assert sorted(of_two_ranks) == sorted(EXACT + WITH_OTHER_DRAWS)
    for strategy in WITH_OTHER_DRAWS:
        content = of_two_ranks[strategy]
        assert content["world_size"] == 2 and content["buffer"] == "native" and content["buffer_capacity"] == 20
        assert all(torch.isfinite(weights).all() for weights in content["weights"].values())
    ends = [content["weights"]["fc1.weight"] for content in of_two_ranks.values()]
    assert not any(torch.allclose(a, b, rtol=0, atol=1e-4) for i, a in enumerate(ends) for b in ends[:i])
