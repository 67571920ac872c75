"""Ranks connected by torch.distributed."""

import contextlib
import os
from datetime import timedelta
from pathlib import Path

import torch

from cl.distributed.comm import ENGINE_SECONDS, Comm
from cl.distributed.ranks import RENDEZVOUS, started


class TorchComm(Comm):
    """Ranks started by torchrun or `launcher=torchrun`; Gloo on the CPU, NCCL on GPUs."""

    engine = "torch"

    def __init__(self, timeout: float):
        super().__init__()
        import torch.distributed as dist

        self.dist = dist
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            timeout = timedelta(seconds=timeout + ENGINE_SECONDS)  # Gloo's and NCCL's
            if RENDEZVOUS in os.environ:
                place, (rank, size) = Path(os.environ[RENDEZVOUS]), started()[1:]
                dist.init_process_group(backend, place.as_uri(), timeout=timeout, rank=rank, world_size=size)
            else:  # torchrun and the like say where in the environment
                dist.init_process_group(backend, timeout=timeout)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Some launchers say only RANK and WORLD_SIZE; then `introduce` counts.
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 0))

    def distribute(self, optimizer, model, accumulation_steps, options):
        if not options.plain:
            raise ValueError(f"torch.distributed has no {options}: use launcher=horovod")
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._message: torch.Tensor | None = None  # memory for all gradients
        return optimizer

    def _reduce(self, optimizer):
        # One message for all gradients, because each message has a latency and a network has many small tensors.
        for weight in self.weights:
            if weight.grad is None:  # not used on this rank, but perhaps on another
                weight.grad = torch.zeros_like(weight)
        grads = [weight.grad for weight in self.weights]
        if self._message is None:
            self._message = torch.cat([grad.reshape(-1) for grad in grads])
            parts = self._message.split([grad.numel() for grad in grads])
            self._parts = [part.view_as(grad) for part, grad in zip(parts, grads)]
        torch._foreach_copy_(self._parts, grads)
        self._all_reduce(self._message)
        self._message /= self.size
        torch._foreach_copy_(grads, self._parts)

    def _sum(self, values):
        values = values.clone()
        self._all_reduce(values)
        return values

    def _all_reduce(self, values: torch.Tensor) -> None:
        """Sum over ranks in place."""
        self.dist.all_reduce(values)
        self.waits.pending = values.is_cuda  # NCCL returns at once

    def _from_first(self, message):
        self.dist.broadcast(message, src=0)
        return message

    def _from_all(self, message):
        messages = [torch.empty_like(message) for _ in range(self.size)]
        self.dist.all_gather(messages, message)
        return messages

    def close(self):
        super().close()
        if self.dist.is_initialized():
            self.dist.destroy_process_group()
        if RENDEZVOUS in os.environ:  # the last rank's store has removed the file; the launcher may be dead
            with contextlib.suppress(OSError):
                Path(os.environ[RENDEZVOUS]).parent.rmdir()
