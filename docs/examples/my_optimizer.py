"""An optimizer of one's own: the sign of the gradient (Bernstein et al. 2018, signSGD).

python run.py --config-dir docs/examples/conf optimizer=sign_sgd trust=[my_optimizer]
"""

import torch

from cl.values import NotNegative


class SignSgd(torch.optim.Optimizer):
    """w <- w - lr sign(gradient), with weight decay apart from it (w <- w - lr weight_decay w)."""

    def __init__(self, params, lr: NotNegative, weight_decay: NotNegative = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(weight.grad.sign(), alpha=group["lr"])
