"""Two real ranks that differ in one thing after the other say so before training, alike on both, by each engine."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from support import QUICK, ROOT, command

from cl.distributed import environments as launchers
from cl.run.folder import plain

WORKER = Path(__file__).with_name("agreement_worker.py")
COPY = "copy the data set to every host anew"
EXPECTED = {
    "what may differ": None,
    "configuration": r"rank 1 differs from rank 0 in the configuration: expected optimizer.lr=0.1, steps=null, got "
    r"optimizer.lr=0.25, steps=7: start every rank with the same options",
    "seed": "rank 1 differs from rank 0 in the configuration: expected seed=0, got seed=5: start .*",
    "code": r"rank 1 differs from rank 0 in the code: expected helper=\w{12}, got helper=\w{12}: install the same .*",
    "packages": rf"rank 1 differs from rank 0 in the packages: expected numpy={re.escape(np.__version__)}, got "
    "numpy=1.0: install the same versions on every host",
    "threads": "rank 1 differs from rank 0 in the device: expected threads=1, got threads=2: .* set device and threads",
    "number": r"rank 1 differs from rank 0 in the number of samples: expected training=1442, .*, got training=1441, .*"
    f"; the labels, pixels differ as well: {COPY}",
    "labels": f"rank 1 differs from rank 0 in the .*: {COPY}",
    "pixels": r"rank 1 differs from rank 0 in the pixels: expected training=(\w{8}), got training=(\w{8}): " + COPY,
    "streams": "rank 1 differs from rank 0 in the picture files: expected content, training=.*, got content, training="
    f".*: {COPY}",
}


@pytest.fixture(scope="module", params=["horovod", "torchrun"])
def said(request, tmp_path_factory) -> dict:
    """What both ranks of an engine said."""
    if request.param == "horovod" and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed: `make horovod` builds it")
    from hydra import compose, initialize_config_dir

    folder = tmp_path_factory.mktemp("agreement")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain(compose("run", ["strategy=finetune", "optimizer=sgd", "optimizer.lr=0.1", *QUICK]))
    (folder / "config.json").write_text(json.dumps(config))
    line = [sys.executable, str(WORKER), str(folder)]
    with getattr(launchers, request.param)(2) as both:
        processes = [
            subprocess.Popen(line, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **own}) for own in both
        ]
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (json.loads((folder / f"said_{rank}.json").read_text()) for rank in range(2))
    assert first == second
    return first


def test_every_way_to_differ_is_named(said):
    assert said.pop("equal") == [None] * 4 and said.pop("equal again") == [None] * 3
    assert said.keys() == EXPECTED.keys()
    for what, pattern in EXPECTED.items():
        assert said[what] is None if pattern is None else re.fullmatch(pattern, said[what]), (what, said[what])
    digests = re.fullmatch(EXPECTED["pixels"], said["pixels"]).groups()
    assert digests == expected_digests()


def expected_digests() -> tuple[str, str]:
    """Of the training pixels as scikit-learn has them, and with 500 samples inverted."""
    from cl.datasets.digits import Digits

    train, _ = Digits(0.0, None, None, []).load(0)
    pixels = train.x.numpy()
    inverted = np.concatenate([pixels[:100], 255 - pixels[100:600], pixels[600:]])
    return tuple(f"{zlib.crc32(each.tobytes()):08x}" for each in (pixels, inverted))


def test_a_run_whose_ranks_have_other_pixels_ends_before_its_first_step(tmp_path):
    (tmp_path / "own_data.py").write_text(
        "from cl.datasets.digits import Digits\nfrom cl.distributed import ranks\n\n"
        "class Copied(Digits):\n    def read(self):\n        train, test = super().read()\n"
        "        if ranks.rank() == 1:\n            train.x[:500] = 255 - train.x[:500]\n        return train, test\n"
    )
    words = ("dataset._target_=own_data.Copied", "trust=[own_data]", "strategy=er", "output=out", *QUICK)
    done = command(*words, "launcher=torchrun", "launcher.np=2", cwd=tmp_path)
    assert done.returncode == 1 and not list(tmp_path.rglob("metrics.csv")) and not list(tmp_path.rglob("task_*"))
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]  # said once for both
    assert re.fullmatch(f"error: {EXPECTED['pixels']}", line)
