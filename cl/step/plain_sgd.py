"""The step of SGD without momentum: w <- w - lr (g + weight_decay w), as `torch.optim.SGD` computes it, to the bit.

`SGD.step` itself adds 90 us of bookkeeping, a fifth of a step of a small network.
"""

import torch
from torch.optim import SGD
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `descend` does all that `optimizer.step` would do: SGD itself, without momentum and without hooks."""
    if type(optimizer) is not SGD or "step" in vars(optimizer):  # a scheduler of torch replaces `step`
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    if _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
        return False
    for group in optimizer.param_groups:
        if group["momentum"] or group["maximize"] or group["differentiable"] or group["fused"]:
            return False
        if isinstance(group["lr"], torch.Tensor):
            return False
    return True


@torch.no_grad()
def descend(optimizer: SGD) -> None:
    """A step of an optimizer that `is_plain`; weights without a gradient stay as they are."""
    for group in optimizer.param_groups:
        weights, gradients = [], []
        for weight in group["params"]:
            gradient = weight.grad
            if gradient is not None:
                weights.append(weight)
                gradients.append(gradient)
        if not weights:
            continue
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        torch._foreach_add_(weights, gradients, alpha=-group["lr"])
