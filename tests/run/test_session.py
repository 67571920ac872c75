"""Plans change nothing, and a session puts back what it changes."""

import contextlib
import random

import numpy as np
import pytest
import torch
from support import QUICK

from cl.run import device as devices
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session


def process_state() -> list:
    """What of the process a run could change: generators, threads, kernels."""
    return [
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.utils.deterministic.fill_uninitialized_memory,
        *attention(),
    ]


def attention() -> list[bool]:
    """Which fused kernels of attention torch may choose."""
    kinds = torch.backends.cuda
    return [kinds.flash_sdp_enabled(), kinds.mem_efficient_sdp_enabled(), kinds.cudnn_sdp_enabled()]


@pytest.mark.parametrize("words", [
    ("strategy=derpp", "buffer.capacity=10%"),
    ("strategy=icarl", "threads=2"),
    ("strategy=gdumb", "scenario=task5", "precision=bf16"),
    ("strategy=joint", "scenario=permuted10", "compile=true"),
    ("strategy=independent", "backbone=resnet18_cifar", "mixing.cutmix=1.0"),
])  # fmt: skip
def test_a_plan_touches_nothing(compose_config, tmp_path, words):
    config = plain(compose_config(*words, *(() if "backbone=resnet18_cifar" in words else QUICK)))
    before = process_state()
    plan = make_plan(config)
    assert process_state() == before and list(tmp_path.iterdir()) == []
    assert plan.folder.parts[-1] == "seed0" and len(plan.stages) == len(plan.epochs)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_put_back(compose_config, fails):
    before = torch.get_num_threads()
    session = Session(make_plan(plain(compose_config(f"threads={before + 2}", *QUICK))))
    with pytest.raises(ValueError, match="on purpose") if fails else contextlib.nullcontext(), session:
        assert torch.get_num_threads() == before + 2
        if fails:
            raise ValueError("on purpose")
    assert torch.get_num_threads() == before


def test_what_fails_on_the_way_in_is_put_back_as_well(compose_config):
    before = process_state()[3:]
    config = plain(compose_config("threads=3", "reduce.operation=adasum", *QUICK))
    with pytest.raises(ValueError, match="reduce.operation=adasum"), Session(make_plan(config)):
        pytest.fail("one process has nothing to reduce")
    assert process_state()[3:] == before


def test_kernels_repeat_on_a_gpu_and_are_put_back(monkeypatch):
    chosen, before = [], process_state()[4:]
    assert all(attention())
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)  # the settings themselves need no GPU
    with devices.repeatable(torch.device("cuda:1")):
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert not torch.utils.deterministic.fill_uninitialized_memory  # costs a fifth of the time
        assert attention() == [False] * 3  # their gradients differ from run to run
    assert chosen == [torch.device("cuda:1")] and process_state()[4:] == before


class Group:
    """What the check of GPUs needs of several ranks; `others`: what these say."""

    size, others = 3, []

    def gather(self, content):
        return [content, *self.others]


@pytest.mark.parametrize(
    "name, others, shared",
    [
        ("auto", [["a", "GPU-1", 1], ["a", "GPU-2", 1]], None),  # SLURM shows each rank its own
        ("auto", [["a", "GPU-0", 2], ["a", "GPU-1", 2]], "ranks 0, 1 would share one GPU of a, where ranks see 2"),
        ("cuda", [["b", "GPU-7", 1], ["b", "GPU-7", 1]], "ranks 1, 2 would share one GPU of b, where ranks see 1"),
        ("auto", [["b", None, 0], ["b", None, 0]], None),  # a host without GPUs
        ("cuda:0", [["a", "GPU-0", 2], ["a", "GPU-0", 2]], None),  # asked for
        ("cpu", [["a", "GPU-0", 2], ["a", "GPU-0", 2]], None),
    ],
)
def test_more_ranks_than_gpus_of_a_host_are_an_error_on_every_rank(monkeypatch, name, others, shared):
    properties = type("Properties", (), {"uuid": "GPU-0"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices.socket, "gethostname", lambda: "a")
    monkeypatch.setattr(Group, "others", others)
    device = torch.device("cpu" if name == "cpu" else "cuda:0")
    with pytest.raises(ValueError, match=shared) if shared else contextlib.nullcontext():
        devices.check_own_gpu(name, device, Group())
