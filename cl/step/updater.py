"""From the loss to the new weights: mixed precision, gradient exchange, clipping, the optimizer's step."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.autograd import Variable

from cl.distributed.comm import Comm, ReduceOptions
from cl.step.plain_sgd import descend, is_plain

T = TypeVar("T")
NO_CONTEXT = contextlib.nullcontext()  # one for all steps: it can be entered any number of times
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Updater:
    """One optimizer with what stands around its step; `accumulation_steps` backward passes make a step.

    `precision` fp32, bf16 or fp16 (with loss scaling), `clip_norm` the largest gradient norm over all weights, or None.
    Raises ValueError for an unknown precision, and for fp16 where there is no GPU.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        device: torch.device,
        comm: Comm,
        reduce: ReduceOptions,
        precision: str = "fp32",
        clip_norm: float | None = None,
        accumulation_steps: int = 1,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision} does not exist; valid: {', '.join(PRECISIONS)}")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm must be above 0, or null, got {clip_norm}")
        self.optimizer = comm.distribute(optimizer, model, accumulation_steps, reduce)
        self.comm, self.device, self.clip_norm, self.accumulation_steps = comm, device, clip_norm, accumulation_steps
        # Before a schedule or a checkpoint has changed them.
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        # A GPU's backward pass has threads of its own, to which `loss.backward` hands settings of the compiler.
        self._one = torch.ones(()) if device.type == "cpu" else None

    def clear(self) -> None:
        """Forget the gradients: what `optimizer.zero_grad` does, at a third of its cost."""
        for weight in self.weights:
            weight.grad = None

    def autocast(self):
        """Context of the forward pass and the loss."""
        if self.dtype is None:
            return NO_CONTEXT
        return torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        if self.scaler is not None:
            self.scaler.scale(loss).backward()
        elif self._one is not None and type(loss) is torch.Tensor and loss.dtype is torch.float32 and not loss.ndim:
            # What `loss.backward()` does in the end; its checks take 5 to 8 % of a step of a small network.
            Variable._execution_engine.run_backward((loss,), (self._one,), False, False, (), True, True)
        else:
            loss.backward()

    def reduce(self) -> None:
        """From here on the gradients are those of the whole step, equal on all ranks and unscaled."""
        self.comm.reduce(self.optimizer)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)

    def gradients(self) -> list[torch.Tensor]:
        """The gradients of all weights; where there is none, zeros take its place."""
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights]

    def gradient(self, loss_of: Callable[[T], torch.Tensor], parts: list[T]) -> list[torch.Tensor]:
        """The gradient of the sum of `loss_of(part)`, in its mean over ranks; that of the step is left as it is."""
        total = [torch.zeros_like(weight) for weight in self.weights]
        for part in parts:
            # fp16 in full precision: its loss scaling watches over the gradients of the step only
            with self.autocast() if self.scaler is None else NO_CONTEXT:
                loss = loss_of(part)
            for sum_, gradient in zip(total, torch.autograd.grad(loss, self.weights, allow_unused=True)):
                if gradient is not None:
                    sum_ += gradient
        return self.comm.mean(total)

    def step(self) -> None:
        """New weights from the gradients."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        with self.comm.applying(self.optimizer):
            if self.scaler is None:
                descend(self.optimizer) if is_plain(self.optimizer) else self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()

    def state_dict(self) -> dict:
        """The state of the optimizer, and of the loss scaling."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def adopt(self, states: list[dict], rank: int) -> None:
        """Take the state of the first of ranks that were not as many."""
        self.load_state_dict(states[0])

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
