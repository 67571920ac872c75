"""Ranks connected by Horovod; only this file and the rendezvous import Horovod."""

import math
import os

import torch

from cl.distributed.comm import ENGINE_SECONDS, Comm
from cl.distributed.ranks import started
from cl.distributed.rendezvous import no_horovod


class HorovodComm(Comm):
    """Ranks started by horovodrun, mpirun or `launcher=horovod`."""

    engine = "horovod"

    def __init__(self, timeout: float):
        super().__init__()
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise no_horovod(error) from error
        for name in ("HOROVOD_GLOO_TIMEOUT_SECONDS", "HOROVOD_STALL_CHECK_TIME_SECONDS"):
            os.environ[name] = str(math.ceil(timeout) + ENGINE_SECONDS)
        if (started() or (None, 0, 1))[2] > 2:
            # Horovod joins what gradients happen to be ready. From three ranks on the order of a sum, and with it the
            # last bits of the weights, would depend on the clock. (Its explicit groups hang with accumulation.)
            os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        hvd.init()
        self.hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        _, _, expected = started() or (None, 0, 1)
        if self.size != expected:  # without MPI each rank of mpirun would train alone and write the same files
            raise ValueError(
                f"{expected} ranks were started, but Horovod sees {self.size}: mpirun needs a Horovod that is built "
                "with MPI (HOROVOD_WITH_MPI=1 make horovod); launcher=horovod and horovodrun work without it"
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
        if not hvd.mpi_enabled():  # otherwise Horovod fails in the first step
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

    def _reduce(self, optimizer):
        optimizer.synchronize()  # raises HorovodInternalError within a second when a rank is gone

    def applying(self, optimizer):
        # With Adasum the exchange is in the step itself.
        return self._gradients if self.adasum else optimizer.skip_synchronize()

    def _sum(self, values):
        return self.hvd.allreduce(values, op=self.hvd.Sum)

    def _from_first(self, message):
        return self.hvd.broadcast_(message, root_rank=0, name="value")

    def _from_all(self, message):
        return list(self.hvd.allgather(message, name="values").chunk(self.size))

    def close(self):
        super().close()
        self.hvd.shutdown()
