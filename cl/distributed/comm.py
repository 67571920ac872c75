"""Communication between the ranks of a run: one interface for a single process, Horovod and torch.distributed.

The launcher's environment variables select the engine. All methods are collective: every rank must call them in the
same order.
"""

import contextlib
import math

import torch
from torch import nn

NO_CONTEXT = contextlib.nullcontext()
START_SECONDS = 60  # how long ranks wait for each other at the start
REDUCE_OPERATIONS = ("average", "adasum")


class Comm:
    """The group of a single process, and the base class of the others."""

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
        """Returns the optimizer to use instead; `accumulation_steps`: backward passes before each `reduce`.

        Raises ValueError for options that this engine, or its build, does not have.
        """
        if not options.plain:
            raise ValueError(
                f"{options} is about the exchange between ranks, but this is one process: leave it out, or start "
                "several ranks (launcher=horovod launcher.np=2)"
            )
        return optimizer

    def reduce(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace the gradients by their mean over the ranks."""

    def applying(self, optimizer: torch.optim.Optimizer):
        """A context in which the optimizer may step after its gradients were reduced."""
        return NO_CONTEXT

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of a tensor that has the same shape on each."""
        return values

    def mean(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mean over ranks of each tensor, sent in one message; all must have one dtype."""
        if self.size == 1:
            return values
        flat = self.sum(torch.cat([value.reshape(-1) for value in values])) / self.size
        return [part.view_as(value) for value, part in zip(values, flat.split([value.numel() for value in values]))]

    def broadcast(self, content):
        """Rank 0's object on every rank; it must be possible to pickle it."""
        return content

    def gather(self, content) -> list:
        """The objects of all ranks, in the order of ranks."""
        return [content]

    def close(self) -> None:
        """Leave the group; a second call does nothing."""


class ReduceOptions:
    """How gradients are reduced over ranks.

    `operation`: average or adasum. `fp16`: whether to send float16. `predivide`: factor to divide by before the sum;
    the rest of the division follows after it. Raises ValueError for combinations that Horovod does not have.
    """

    def __init__(self, operation: str = "average", fp16: bool = False, predivide: float = 1.0):
        if operation not in REDUCE_OPERATIONS:
            raise ValueError(f"reduce.operation={operation} does not exist; valid: {', '.join(REDUCE_OPERATIONS)}")
        if not isinstance(fp16, bool):
            raise ValueError(f"reduce.fp16 must be true or false, got {fp16}")
        if not isinstance(predivide, (int, float)) or not 0 < predivide < math.inf:
            raise ValueError(f"reduce.predivide must be a number above 0, got {predivide}")
        if operation == "adasum" and predivide != 1.0:
            raise ValueError("reduce.predivide needs reduce.operation=average: Adasum does not divide")
        self.operation, self.fp16, self.predivide = operation, fp16, predivide

    @property
    def plain(self) -> bool:
        """Whether this is the mean in full precision, which every engine has."""
        return not str(self)

    def __str__(self) -> str:
        """The options that differ from the defaults, in the notation of the configuration."""
        given = {"operation": self.operation, "fp16": self.fp16, "predivide": self.predivide}
        default = {"operation": "average", "fp16": False, "predivide": 1.0}
        return ", ".join(f"reduce.{key}={value}" for key, value in given.items() if value != default[key])

    def check_step(self, precision: str, clip_norm: float | None, changes_gradients: bool) -> None:
        """Raise ValueError for options of the step that the operation does not support."""
        # With Horovod's Adasum each rank steps within the backward pass; then Adasum combines the changes of weights.
        if self.operation == "adasum" and clip_norm is not None:
            raise ValueError(f"reduce.operation=adasum has no gradient to clip: leave out clip_norm={clip_norm}")
        if self.operation == "adasum" and precision == "fp16":
            raise ValueError("reduce.operation=adasum steps before fp16's loss scaling is undone: use precision=bf16")
        if self.operation == "adasum" and changes_gradients:
            raise ValueError("reduce.operation=adasum has no gradient that this strategy could change: use average")
