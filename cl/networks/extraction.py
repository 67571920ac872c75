"""The frozen part of a network as it is computed over a whole data set: forward alone, in evaluation mode.

On a CPU three things decide about the time (benchmarks/features.py measures them): batches whose tensors fit into its
caches, one batch for each processor in place of one operation shared by all of them, whose parts wait for one another;
and memory that is kept from batch to batch, as every page that comes anew from the system is filled with zeros first.
Batch-norm is folded into the convolutions before it. Batches are always the same, so the results do not depend on the
number of processors.
"""

import collections
import contextlib
import copy
import ctypes
import inspect
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cl.networks.frozen import frozen_state

BATCH, GPU_BATCH = 16, 256  # below 16, torch computes some convolutions on a CPU in a slower way
AHEAD = 2  # batches for each processor that are begun before the first is taken
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT = 1 << 30  # bytes that are kept for the next batch
USUAL = {M_MMAP_THRESHOLD: 1 << 25, M_TRIM_THRESHOLD: 1 << 26}  # the most to which glibc adapts them by itself


class Extraction:
    """`body`: the frozen part as a function of a network and inputs (`cl.networks.frozen.cut`), on a copy of it.

    `state`: names and values of the tensors that decide about its results; `code`: what they
    do with them, as text; `sample`: an input; `shape`: of its features.
    """

    def __init__(
        self, network: nn.Module, body: Callable[[nn.Module, torch.Tensor], torch.Tensor], sample: torch.Tensor
    ):
        self.state, self.body = frozen_state(network), body
        self.code = f"{body.__doc__} {described(network)}"
        self.batch = BATCH if sample.device.type == "cpu" else GPU_BATCH
        self.network = copy.deepcopy(network).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        generator = torch.Generator(sample.device).manual_seed(0)
        tried = torch.rand(sample.shape, generator=generator, device=sample.device)
        before = self(tried)
        self.shape = tuple(before.shape[1:])
        plain = copy.deepcopy(self.network)
        fold_batch_norm(self.network, lambda: body(self.network, sample))
        # Where something that is no module reads what a convolution gives, it must stay as it is.
        if not torch.allclose(self(tried), before, rtol=1e-3, atol=1e-3 * before.abs().max().item()):
            self.network = plain

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Features [B, ...] of inputs [B, C, H, W]."""
        return self.body(self.network, x.contiguous(memory_format=torch.channels_last))

    def over(
        self, batches: Iterable[torch.Tensor], prepare: Callable[[torch.Tensor], torch.Tensor], threads: int
    ) -> Iterator[torch.Tensor]:
        """The features of each batch, in order; `prepare` makes inputs of it, `threads` work on a CPU side by side."""
        first = next(self.network.parameters())
        if first.device.type != "cpu":
            yield from (self(prepare(batch)) for batch in batches)
            return
        with _kept_memory(), _one_thread_each(), ThreadPoolExecutor(threads) as pool:
            begun: collections.deque = collections.deque()
            for batch in batches:
                begun.append(pool.submit(lambda batch=batch: self(prepare(batch))))
                if len(begun) > AHEAD * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()


def described(network: nn.Module) -> str:
    """What a network computes, as far as its tensors do not say: its modules with their options, and users' code."""
    import timm

    own = sorted({type(module) for module in network.modules()}, key=lambda kind: f"{kind.__module__}.{kind.__name__}")
    sources = []
    for kind in own:
        if kind.__module__.partition(".")[0] not in ("torch", "torchvision", "timm"):
            with contextlib.suppress(OSError, TypeError):  # typed into an interpreter, or made there
                sources.append(inspect.getsource(kind))
    return "\n".join([repr(network), f"timm {timm.__version__}", *sources])


@torch.no_grad()
def fold_batch_norm(network: nn.Module, run: Callable[[], object]) -> int:
    """Put each batch-norm that follows a convolution, and nothing else does, into its weights; returns how many.

    `run` calls the network, in evaluation mode. Of a BatchNormAct2d its activation stays.
    """
    from timm.layers import BatchNormAct2d

    made: dict[int, nn.Conv2d] = {}  # by the identity of their outputs, which are kept alive
    kept, calls = [], []

    def see(module: nn.Module, given: tuple, output: torch.Tensor) -> None:
        kept.append((given, output))
        calls.append((module, given[0] if given else None, output))
        if type(module) is nn.Conv2d or isinstance(module, nn.Conv2d):
            made[id(output)] = module

    leaves = [
        module for module in network.modules() if not list(module.children()) or isinstance(module, BatchNormAct2d)
    ]
    hooks = [module.register_forward_hook(see) for module in leaves]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    counts = collections.Counter(module for module, *_ in calls)
    readers = collections.Counter(id(given) for module, given, _ in calls)
    names = {module: name for name, module in network.named_modules()}
    folded = 0
    for module, given, _ in calls:
        convolution = made.get(id(given))
        if type(module) not in (nn.BatchNorm2d, BatchNormAct2d) or convolution is None:
            continue
        if counts[module] > 1 or counts[convolution] > 1 or readers[id(given)] > 1 or module.running_mean is None:
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, module.running_mean, module.running_var, module.eps, module.weight,
            module.bias,
        )  # fmt: skip
        owner, _, own = names[module].rpartition(".")
        rest = nn.Sequential(module.drop, module.act) if isinstance(module, BatchNormAct2d) else nn.Identity()
        setattr(network.get_submodule(owner), own, rest.eval())
        folded += 1
    return folded


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads that begin here share out no operation: torch gives them the number that it has then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _kept_memory() -> Iterator[None]:
    """Freed memory stays with the process meanwhile; where the C library is not glibc, nothing changes."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    for option in USUAL:
        libc.mallopt(option, KEPT)
    try:
        yield
    finally:
        for option, value in USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
