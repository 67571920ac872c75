"""Two ranks that die within a stage go on with the same bits, each with its own statistics and generators."""

import json
import os
from pathlib import Path

import forkserver
from outcomes import assert_same, outcome
from support import ROOT

from cl.distributed import environments as launchers
from cl.run.folder import plain

WORKER = Path(__file__).with_name("midtask_worker.py")


def test_two_ranks_that_died_within_a_stage_end_with_the_same_bits(compose_config, tmp_path):
    # batch-norm, whose statistics differ between ranks within a stage, momentum, flips, and a memory over both
    words = (
        "strategy=er", "scenario=class2", "backbone=timm", "backbone.model=test_resnet", "dataset.augment=[flip]",
        "optimizer=sgd", "optimizer.momentum=0.9", "steps=8", "batch_size=8", "buffer.capacity=30",
        "strategy.replay_batch_size=4", "progress=false", "pictures=[]", "log_interval=2",
    )  # fmt: skip
    small = ("dataset.validation=0.8", "steps=6")
    more = (
        ("ema=0.9", "eval_every=5"), ("average=swa", "average.batch_norm=data", "average.start=0.3", *small),
        ("average=fisher", "average.fisher_samples=21", *small),
    )  # fmt: skip
    configs = [plain(compose_config(*words, *each)) for each in more]
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    line = [WORKER, str(tmp_path)]
    with launchers.torchrun(2) as environments:
        processes = [forkserver.start(line, cwd=ROOT, env={**os.environ, **own}) for own in environments]
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
    found = [list(map(Path, folders)) for folders in json.loads((tmp_path / "folders.json").read_text())]
    for whole, again, _ in found:
        assert_same(outcome(whole), outcome(again))
    whole, again, untested = found[0]
    assert (whole / "anytime.csv").read_bytes() == (again / "anytime.csv").read_bytes()
    # Tests within a stage, of the average with equal statistics on both ranks, change nothing of training.
    tested, plainly = outcome(whole), outcome(untested)
    assert [step for step, _ in tested["results"]["evaluations"]] == [5, 8, 10, 15, 16]
    for name in ("rows", "task_00.pt", "task_01.pt"):
        assert_same(tested[name], plainly[name])
