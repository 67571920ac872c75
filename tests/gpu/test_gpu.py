"""What runs do on a GPU: the same bits twice, also after a stop within a task, and numbers near those of the CPU.

Where there is no GPU a few of them run on the CPU, so that they cannot rot unseen; `make gpu` runs all on a GPU.
"""

import json
import subprocess
import sys

import pytest
import torch
from support import ROOT

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.buffers.transfers import Transfers
from cl.distributed.comm import Comm
from cl.run import checkpoint, experiment
from cl.run.together import run_together

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
QUICK = ("scenario=class2", "steps=30", "pictures=[]", "checkpoint.every=null", "batch_size=16")
CONVOLUTIONAL = ("backbone=resnet18_cifar", "steps=6")
ALL = sorted(path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml"))
STRATEGIES = ALL if GPU else ["derpp"]
OPTIONS = [
    ("precision=bf16", "strategy=er"),
    ("precision=fp16", "strategy=derpp", *CONVOLUTIONAL),
    ("precision=bf16", "channels_last=true", "strategy=er", *CONVOLUTIONAL),
    ("compile=true", "strategy=er"),
    ("ema=0.9", "strategy=er"),
    ("gradient_accumulation_steps=2", "strategy=agem"),
    ("buffer=reference", "strategy=derpp"),
    ("mixing.mixup=0.5", "strategy=finetune", *CONVOLUTIONAL),
    ("scenario=permuted10", "scenario.num_tasks=2", "strategy=ewc"),
]


def found(compose_config, tmp_path, place: str, words) -> tuple[dict, dict]:
    """The results of a run in a folder of its own, and its last network."""
    config = compose_config(*QUICK, *words, f"device={DEVICE}", f"output={tmp_path / place}")
    folder = experiment.run(config)
    last = max(checkpoint.task_files(folder).items())[1]
    return json.loads((folder / "results.json").read_text()), torch.load(last, weights_only=True)["model"]


def assert_equal(one: tuple[dict, dict], other: tuple[dict, dict]) -> None:
    assert one[0]["accuracy_matrix"] == other[0]["accuracy_matrix"]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_repeats_to_the_bit(compose_config, tmp_path, strategy):
    words = (f"strategy={strategy}",)
    assert_equal(*(found(compose_config, tmp_path, place, words) for place in "ab"))


@pytest.mark.parametrize("strategy", ["finetune", "derpp"])
def test_seeds_together_are_as_by_themselves(compose_config, tmp_path, strategy):
    words = f"strategy={strategy}", f"device={DEVICE}", *QUICK
    configs = [compose_config(*words, f"output={tmp_path / 'together'}", f"seed={seed}") for seed in range(3)]
    for seed, folder in enumerate(run_together(configs)):
        alone = experiment.run(compose_config(*words, f"output={tmp_path / 'alone'}", f"seed={seed}"))
        networks = [torch.load(checkpoint.task_file(one, 1), weights_only=True)["model"] for one in (folder, alone)]
        torch.testing.assert_close(*networks, rtol=1e-3, atol=1e-4)
        matrices = [json.loads((one / "results.json").read_text())["accuracy_matrix"] for one in (folder, alone)]
        torch.testing.assert_close(*map(torch.tensor, matrices), rtol=0, atol=0.02)


@pytest.mark.parametrize("words", OPTIONS if GPU else OPTIONS[:1], ids=" ".join)
def test_with_options_too(compose_config, tmp_path, words):
    assert_equal(*(found(compose_config, tmp_path, place, words) for place in "ab"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_stopped_within_a_task_goes_on_to_the_same_bits(compose_config, tmp_path, monkeypatch, strategy):
    words = (f"strategy={strategy}", "checkpoint.every=10")
    whole = found(compose_config, tmp_path, "whole", words)
    write, saves = checkpoint.Checkpoints.save, []

    def die(self, *rest, **named):
        write(self, *rest, **named)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", die)
        with pytest.raises(KeyboardInterrupt):
            found(compose_config, tmp_path, "stopped", words)
    assert_equal(whole, found(compose_config, tmp_path, "stopped", words))


@pytest.mark.skipif(not GPU, reason="compares a GPU with the CPU: there is no GPU here")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accuracies_are_those_of_the_cpu(compose_config, tmp_path, strategy):
    """Rounding differs, and after a few steps of a small network hardly more: 3 of 100 test digits."""
    on_gpu = found(compose_config, tmp_path, "gpu", (f"strategy={strategy}",))[0]
    config = compose_config(*QUICK, f"strategy={strategy}", "device=cpu", f"output={tmp_path / 'cpu'}")
    on_cpu = json.loads((experiment.run(config) / "results.json").read_text())
    assert on_gpu["average_accuracy"] == pytest.approx(on_cpu["average_accuracy"], abs=0.03)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="trains on two GPUs: there are not two here")
@pytest.mark.parametrize("strategy", ["er", "derpp"])
def test_two_ranks_on_two_gpus_repeat_to_the_bit(tmp_path, strategy):
    """Gradients by NCCL, each rank on a GPU of its own."""
    words = [*QUICK, f"strategy={strategy}", "device=cuda", "launcher=torchrun", "launcher.np=2"]
    for place in "ab":
        line = [sys.executable, str(ROOT / "run.py"), *words, f"output={tmp_path / place}"]
        subprocess.run(line, cwd=ROOT, check=True, timeout=300)
    networks = [
        torch.load(max((tmp_path / place).rglob("task_*.pt")), weights_only=True)["model"].values() for place in "ab"
    ]
    assert all(map(torch.equal, *networks))


def test_records_come_to_the_device_and_back_unharmed():
    """While kernels of another stream compute, and memory is given away and taken again."""
    device, transfers = torch.device(DEVICE), Transfers(torch.device(DEVICE))
    load = torch.rand(512, 512, device=device)
    for number in range(40 if GPU else 3):
        there = transfers.to_device({"x": torch.full((64, 3, 32, 32), number, dtype=torch.uint8)})["x"]
        for _ in range(4):
            load = (load @ load).clamp_(0, 1)
        back = transfers.fetch({"x": there + 1})["x"]
        del there
        transfers.wait()
        assert (back == number + 1).all()


def test_draws_are_those_of_the_cpu():
    fields = [Field("x", (3, 8, 8), torch.uint8), Field("y", (), torch.int64)]
    y = torch.arange(300) % 10
    x = (torch.arange(300)[:, None, None, None] % 251).expand(300, 3, 8, 8).to(torch.uint8).contiguous()
    drawn = []
    for device in ("cpu", DEVICE):
        buffer = NativeBuffer(50, "reservoir", "uniform", fields, 10, 3, torch.device(device), Comm())
        for part in range(0, 300, 30):
            buffer.add({"x": x[part : part + 30].to(device), "y": y[part : part + 30].to(device)})
            buffer.request(16)
            records = buffer.receive()
            drawn.append((device, records.columns["x"].cpu(), records.columns["y"].cpu()))
        buffer.close()
    half = len(drawn) // 2
    for (_, *first), (_, *second) in zip(drawn[:half], drawn[half:]):
        assert all(torch.equal(a, b) for a, b in zip(first, second))
