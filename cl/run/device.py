"""The device that a run computes on, and the settings of torch that it changes while it lasts."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cl.distributed.comm import Comm
from cl.distributed.failures import numbers

# Weights below which sharing a step among threads costs more than it gains; on busy cores it costs twenty times as much
# as the step itself (measured with 784-100-100-10: 0.5 ms on one thread, 0.5 to 20 ms on two).
SMALL_NETWORK = 300_000
TORCH_THREADS = torch.get_num_threads()  # before any run has changed it

# Kernels of attention whose gradients are summed in another order each time, unless torch is to fail at every operation
# for which it has no other kernel. Without them a step of vit_tiny takes 6 % longer in fp32, 30 % in bf16 (one H200).
FUSED_ATTENTION = [
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
]


def choose_device(name: str, local_rank: int) -> torch.device:
    """The device that `device=name` means for a rank; raises ValueError for one that cannot be used here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name} cannot be used here ({reason}); valid: auto, cpu, cuda, cuda:N, mps"
        ) from error
    return device


def check_own_gpu(name: str, device: torch.device, comm: Comm) -> None:
    """Raise ValueError if ranks of one host got the same GPU without being asked to; every rank calls this.

    A scheduler may show each rank one GPU only, so their numbers do not tell, but what they are does.
    """
    if name not in ("auto", "cuda") or comm.size == 1:
        return
    own = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    found = comm.gather([socket.gethostname(), own, torch.cuda.device_count()])
    for host, gpu, number in found:
        sharing = [rank for rank, (_, other, _) in enumerate(found) if gpu is not None and other == gpu]
        if len(sharing) > 1:
            raise ValueError(
                f"{numbers(sharing)} would share one GPU of {host}, where ranks see {number}: start at most one rank "
                "for each GPU, or choose device=cpu, or device=cuda:0 to share one on purpose"
            )


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Same seed, same numbers: cuDNN and cuBLAS otherwise choose among kernels whose sums differ in order.

    The settings are those of the whole process, and are put back at the end.
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_device(device)
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    attention = [enabled() for enabled, _ in FUSED_ATTENTION]
    torch.backends.cudnn.benchmark = False
    for _, enable in FUSED_ATTENTION:
        enable(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # torch would fill every new tensor with NaN before a kernel writes it: a sixth to a third of a step of a ResNet.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills
        for (_, enable), was in zip(FUSED_ATTENTION, attention):
            enable(was)


@contextmanager
def threads(number: int | str, model: nn.Module, local_ranks: int) -> Iterator[None]:
    """CPU threads while it lasts; `auto`: one for a network whose layers are too small to be shared out, else torch's.

    The ranks of one host share its processors.
    """
    if number == "auto":
        # What a frozen part gives may have been computed before: then only the rest is at work.
        rest = getattr(model, "takes_features", False)
        weights = [weight for weight in model.parameters() if weight.requires_grad or not rest]
        small = sum(weight.numel() for weight in weights) < SMALL_NETWORK
        number = 1 if small else max(1, TORCH_THREADS // local_ranks)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where torch.compile lacks what it looks for only when training begins."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(f"compile=true needs a C++ compiler, and there is no {compiler}: install one, or set CXX")
