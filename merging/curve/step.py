"""A training step of a curve: the outputs of a network whose weights are a weighted sum of points.

A fully connected network takes as long to read its weights as to multiply with them, so what a step does to them
besides counts. Each step reads every point once and writes the sum to the same memory. With a single inner point its
coefficient multiplies the gradient of the few outputs, not that of the many weights. The sum is in the place of the
network's own weights only during the call.
"""

from itertools import chain

import torch
from torch import nn

BLOCK = 1 << 15  # numbers that a CPU sums at a time: more leave its cache before all points are added
LINE = 16  # numbers of a cache line


def stacked(weights: list[torch.Tensor]) -> torch.Tensor:
    """Memory [points, numbers] with a copy of a weight at each point; `seen_as` shows a row as that weight."""
    size = weights[0].numel()
    memory = weights[0].new_empty(len(weights), -(-size // LINE) * LINE)[:, :size]
    for row, weight in zip(memory, weights):
        seen_as(weights[0], row).copy_(weight)
    return memory


def seen_as(weight: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """A row of memory with the shape of a weight and its order in memory (such as channels_last)."""
    dense = torch.empty_like(weight, device="meta")
    return row.as_strided(dense.shape, dense.stride())


class _Sum(torch.autograd.Function):
    """The weights that `write` makes of all inner points; the gradients of inner point i are multiplied by slopes_i."""

    @staticmethod
    def forward(ctx, write, slopes, *inner):
        ctx.slopes = slopes
        ctx.set_materialize_grads(False)  # what the network does not use gets no gradient
        return write()

    @staticmethod
    def backward(ctx, *gradients):
        return (
            None,
            None,
            *(
                gradient if gradient is None or slope == 1 else slope * gradient
                for slope in ctx.slopes
                for gradient in gradients
            ),
        )


class Step:
    """Computes outputs at a point of a curve; the next call overwrites its weights.

    `memory`: by name of the weight, what `stacked` has made of the points; `inner`: the inner points, parameters that
    show its rows, in the same order.
    """

    def __init__(self, network: nn.Module, memory: dict[str, torch.Tensor], inner: list[list[nn.Parameter]]):
        self.network, self.inner = network, list(chain(*inner))
        rows = [torch.empty_like(points[0]) for points in memory.values()]
        self.weights = [seen_as(weight, row) for weight, row in zip(inner[0], rows)]
        size = BLOCK if rows[0].device.type == "cpu" else max(map(len, rows))
        self.blocks = [
            (part.t(), out)
            for points, row in zip(memory.values(), rows)
            for part, out in zip(points.split(size, 1), row.split(size))
        ]
        number = {id(network.get_parameter(name)): number for number, name in enumerate(memory)}
        self.places = [  # of the network's own weights: one that is shared is in several
            (module._parameters, name, number[id(weight)])
            for module in network.modules()
            for name, weight in module._parameters.items()
            if id(weight) in number
        ]

    def __call__(self, coefficients: list[float], x: torch.Tensor) -> torch.Tensor:
        single = len(coefficients) == 3
        slopes = [1] if single else coefficients[1:-1]
        weights = _Sum.apply(lambda: self._write(coefficients), slopes, *self.inner)
        own = [place[name] for place, name, _ in self.places]
        try:
            for place, name, number in self.places:
                place[name] = weights[number]
            outputs = self.network(x)
        finally:
            for (place, name, _), weight in zip(self.places, own):
                place[name] = weight
        if single and outputs.requires_grad:
            outputs.register_hook(lambda gradient: coefficients[1] * gradient)
        return outputs

    def _write(self, coefficients: list[float]) -> tuple[torch.Tensor, ...]:
        factors = self.weights[0].new_tensor(coefficients)
        for points, out in self.blocks:
            torch.mv(points, factors, out=out)
        return tuple(weight.detach() for weight in self.weights)
