"""Memory Aware Synapses (Aljundi et al. 2018, Memory Aware Synapses: Learning what (not) to forget, eq. 2 to 4)."""

import torch

from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.strategies.fisher import SquaredGradients
from cl.strategies.penalty import PenaltyStrategy
from cl.values import NotNegative


class Mas(PenaltyStrategy):
    """CE(f(x), y) + lambda sum_i Omega_i (theta_i - theta*_i)^2.

    After each task Omega_i grows by the mean over its training samples of |d ||f(x)||^2 / d theta_i|, with the weights
    as the task has left them, theta* (global version). No label is used. Where training is told the task, f are the
    outputs of the sample's task. Avalanche takes the absolute value of the mean gradient of a batch, and averages the
    old and the new importance.
    """

    def __init__(self, lambda_: NotNegative):
        super().__init__(strength=2 * lambda_)

    def after_task(self, stage: int, samples: Rows) -> None:
        found = self.sensitivity(samples)
        self.importance = torch._foreach_add(self.importance, found) if self.importance else found
        self.anchor = self.current_weights()

    def sensitivity(self, samples: Rows) -> list[torch.Tensor]:
        """The mean over samples, a tensor for each weight; every rank computes its part."""
        device, comm = self.updater.device, self.updater.comm
        mine = torch.arange(comm.rank, len(samples), comm.size, device=samples.y.device)
        slopes = AbsoluteGradients(self.model, self.updater.weights, self.own_outputs)
        with evaluating(self.model), self.passes.paused():
            if len(mine):
                chunk = slopes.chunk(self.transform.test(samples.part(mine[:2]).loaded().to(device).x))
                for part in mine.split(chunk):
                    some = samples.part(part).loaded().to(device)
                    # The gradient of ||f||^2 is J^T (2 f).
                    slopes.add(self.transform.test(some.x), some.task, lambda outputs: 2 * outputs[None])
        self.passes.count(forward=len(mine), backward=slopes.products)
        totals = [slopes.totals[name] for name in slopes.names]
        return [value * (comm.size / len(samples)) for value in comm.mean(totals)]

    def own_outputs(self, outputs: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """The outputs, 0 for those of other tasks where training is told the task."""
        if not self.outputs.task_aware:
            return outputs
        return outputs.masked_fill(self.outputs.other_classes[task], 0.0)


class AbsoluteGradients(SquaredGradients):
    """The sum over samples of |J^T v|, v from the outputs themselves."""

    magnitude = staticmethod(torch.abs)

    def prediction(self, logits: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        return self.mask(logits, task)
