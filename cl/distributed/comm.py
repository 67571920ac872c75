"""One process or many: everything that passes between the ranks of a run. The only file that imports Horovod.

Three engines with the same methods: `Comm` (one process, nothing to do), `HorovodComm` and `TorchComm`
(torch.distributed). Which one is meant is read from what the launcher left in the environment. All methods are
collective: every rank calls them in the same order.
"""

import contextlib
import hashlib
import math
import os
import pickle
from datetime import timedelta

import torch
from torch import nn

from cl.distributed.ranks import started

START_SECONDS = 60  # how long ranks wait for each other to start
NO_CONTEXT = contextlib.nullcontext()
REDUCE_OPERATIONS = ("average", "adasum")


class Comm:
    """A single process."""

    engine = "none"
    rank = local_rank = 0
    size = local_size = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def distribute(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, accumulation_steps: int, options: "ReduceOptions"
    ) -> torch.optim.Optimizer:
        """The optimizer to use in its place; `accumulation_steps`: backward passes before each `reduce`.

        Raises ValueError for options that this engine, or what it was built with, does not have.
        """
        if not options.plain:
            raise ValueError(
                f"{options} is about the exchange between ranks, and this is one process: leave it out, or start "
                "several ranks (launcher=horovod launcher.np=2)"
            )
        return optimizer

    def reduce(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace the gradients by their mean over ranks."""

    def applying(self, optimizer: torch.optim.Optimizer):
        """Context in which the optimizer may step once its gradients are reduced."""
        return NO_CONTEXT

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of a tensor of the same shape on each."""
        return values

    def mean(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mean over ranks of each of some tensors of one dtype, carried in one message."""
        if self.size == 1:
            return values
        flat = self.sum(torch.cat([value.reshape(-1) for value in values])) / self.size
        return [part.view_as(value) for value, part in zip(values, flat.split([value.numel() for value in values]))]

    def broadcast(self, content):
        """Rank 0's object, which can be pickled, on every rank."""
        return content

    def gather(self, content) -> list:
        """The objects of all ranks, by rank."""
        return [content]

    def close(self) -> None:
        """Leave the group; a second call does nothing."""


class ReduceOptions:
    """How gradients are reduced: `operation` average or adasum, as float16 or not, divided before the sum or after.

    Raises ValueError for combinations that Horovod does not have.
    """

    def __init__(self, operation: str = "average", fp16: bool = False, predivide: float = 1.0):
        if operation not in REDUCE_OPERATIONS:
            raise ValueError(f"reduce.operation={operation} does not exist; valid: {', '.join(REDUCE_OPERATIONS)}")
        if not isinstance(fp16, bool):
            raise ValueError(f"reduce.fp16 must be true or false, got {fp16}")
        if not isinstance(predivide, (int, float)) or not 0 < predivide < math.inf:
            raise ValueError(f"reduce.predivide must be a number above 0, got {predivide}")
        if operation == "adasum" and predivide != 1.0:
            raise ValueError("reduce.predivide belongs to reduce.operation=average: Adasum does not divide")
        self.operation, self.fp16, self.predivide = operation, fp16, predivide

    @property
    def plain(self) -> bool:
        """Whether it is the mean in full precision, which every engine has."""
        return not str(self)

    def __str__(self) -> str:
        """The options that are not the default, as they are given."""
        given = {"operation": self.operation, "fp16": self.fp16, "predivide": self.predivide}
        default = {"operation": "average", "fp16": False, "predivide": 1.0}
        return ", ".join(f"reduce.{key}={value}" for key, value in given.items() if value != default[key])

    def check_step(self, precision: str, clip_norm: float | None, changes_gradients: bool) -> None:
        """Raise ValueError for options of the step that do not go with the operation."""
        # Horovod's Adasum steps within the backward pass, each rank for itself, and then combines what they moved.
        if self.operation == "adasum" and clip_norm is not None:
            raise ValueError(f"reduce.operation=adasum has no gradient to clip: leave out clip_norm={clip_norm}")
        if self.operation == "adasum" and precision == "fp16":
            raise ValueError("reduce.operation=adasum steps before fp16's loss scaling is undone: use precision=bf16")
        if self.operation == "adasum" and changes_gradients:
            raise ValueError("reduce.operation=adasum has no gradient that this strategy could change: use average")


class HorovodComm(Comm):
    """Ranks started by horovodrun, mpirun or `launcher=horovod`."""

    engine = "horovod"

    def __init__(self):
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise _no_horovod(error) from error
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(START_SECONDS))
        hvd.init()
        self.hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        _, _, expected = started() or (None, 0, 1)
        if self.size != expected:  # without MPI each rank of mpirun would train alone, and write the same files
            raise ValueError(
                f"{expected} ranks were started, but Horovod sees {self.size}: ranks of mpirun need a Horovod that is "
                "built with MPI (HOROVOD_WITH_MPI=1 make horovod); launcher=horovod and horovodrun do without"
            )
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def distribute(self, optimizer, model, accumulation_steps, options):
        hvd = self.hvd
        if options.predivide != 1.0 and hvd.rocm_built():
            raise ValueError(f"Horovod's ROCm builds do not predivide: leave out reduce.predivide={options.predivide}")
        self.adasum = options.operation == "adasum" and self.size > 1
        if options.operation == "adasum":
            self._check_adasum(next(model.parameters()).device)
        return hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            compression=hvd.Compression.fp16 if options.fp16 else hvd.Compression.none,
            backward_passes_per_step=accumulation_steps,
            op=hvd.Adasum if options.operation == "adasum" else hvd.Average,
            gradient_predivide_factor=options.predivide,
        )

    def _check_adasum(self, device: torch.device) -> None:
        hvd = self.hvd
        if not hvd.mpi_enabled():  # where it is missing Horovod fails in the first step
            build = "" if hvd.mpi_built() else "build Horovod with it (HOROVOD_WITH_MPI=1 make horovod) and "
            raise ValueError(
                f"reduce.operation=adasum needs MPI, but the ranks talk through Gloo: {build}start them by mpirun"
            )
        # On GPUs NCCL sums within each host, and Adasum combines the hosts.
        hosts = device.type == "cuda" and hvd.nccl_built()
        if hosts and not hvd.mpi_ops.is_homogeneous():
            raise ValueError("reduce.operation=adasum on GPUs needs the same number of ranks on every host")
        count = self.size // self.local_size if hosts else self.size
        if count & (count - 1):
            what = "hosts" if hosts else "ranks"
            raise ValueError(f"reduce.operation=adasum needs 2, 4, 8, 16 ... {what}, got {count}")

    def reduce(self, optimizer):
        optimizer.synchronize()  # raises HorovodInternalError within a second when a rank is gone

    def applying(self, optimizer):
        return NO_CONTEXT if self.adasum else optimizer.skip_synchronize()

    def sum(self, values):
        return self.hvd.allreduce(values, op=self.hvd.Sum)

    def broadcast(self, content):
        # With a name: Horovod would take that of the type, and wait for ever where the ranks' objects differ in it.
        return self.hvd.broadcast_object(content, root_rank=0, name="content")

    def gather(self, content):
        return self.hvd.allgather_object(content, name="content")

    def close(self):
        self.hvd.shutdown()


class TorchComm(Comm):
    """Ranks started by torchrun or `launcher=torchrun`; Gloo on the CPU, NCCL on GPUs."""

    engine = "torch"

    def __init__(self):
        import torch.distributed as dist

        self.dist = dist
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=START_SECONDS))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])

    def distribute(self, optimizer, model, accumulation_steps, options):
        if not options.plain:
            raise ValueError(f"torch.distributed has no {options}: use launcher=horovod")
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        return optimizer

    def reduce(self, optimizer):
        # One message for all gradients: a network is many small tensors, and each message has its latency.
        for weight in self.weights:
            if weight.grad is None:  # not used on this rank, perhaps on another
                weight.grad = torch.zeros_like(weight)
        grads = [weight.grad for weight in self.weights]
        for grad, mean in zip(grads, self.mean(grads)):
            grad.copy_(mean)

    def sum(self, values):
        values = values.clone()
        self.dist.all_reduce(values)
        return values

    def broadcast(self, content):
        box = [content]
        self.dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, content):
        box = [None] * self.size
        self.dist.all_gather_object(box, content)
        return box

    def close(self):
        if self.dist.is_initialized():
            self.dist.destroy_process_group()


@contextlib.contextmanager
def horovod_rendezvous(ranks: int):
    """A server where `ranks` ranks of this machine meet; yields its port."""
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousServer
    except ImportError as error:
        raise _no_horovod(error) from error
    server = RendezvousServer(verbose=0)
    port = server.start()
    server.init(get_host_assignments(parse_hosts(f"localhost:{ranks}"), ranks))
    try:
        yield port
    finally:
        server.stop()


def _no_horovod(error: ImportError) -> ValueError:
    return ValueError(
        f"several ranks need Horovod, which cannot be imported ({error}); `make horovod` builds it, "
        "launcher=torchrun does without"
    )


_comm: Comm | None = None


def connect(engine: str | None) -> Comm:
    """The group of this process, made once: the jobs of a sweep share it. `engine`: horovod, torch or None."""
    global _comm
    if _comm is None:
        _comm = {"horovod": HorovodComm, "torch": TorchComm, None: Comm}[engine]()
    return _comm


def disconnect() -> None:
    """Leave the group, if there is one."""
    global _comm
    if _comm is not None:
        _comm.close()
        _comm = None


def check_equal(comm: Comm, model: nn.Module) -> None:
    """Raise RuntimeError unless the network is the same on every rank to the last bit."""
    if comm.size == 1:
        return
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(pickle.dumps(value.detach().cpu().numpy()))
    digests = comm.gather(digest.hexdigest())
    odd = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if odd:
        raise RuntimeError(f"the networks of ranks {odd} differ from that of rank 0: the run's numbers are worthless")


def equalise_statistics(comm: Comm, model: nn.Module, average: bool) -> None:
    """Give every rank the same batch-norm statistics: their mean, or those of rank 0."""
    if comm.size == 1:
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    share = 1.0 if average else float(comm.is_main * comm.size)
    for buffer, value in zip(buffers, comm.mean([share * buffer for buffer in buffers])):
        buffer.copy_(value)
