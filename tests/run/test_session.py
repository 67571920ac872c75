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
