"""The diagonal of the Fisher information of a network that predicts labels, and how it is added up.

With J the derivative of one sample's logits by the weights and p its prediction, the gradient of log p(y | x) is
J^T (e_y - p). So each estimate of the diagonal is a sum over some vectors v in the space of the logits of (J^T v)^2.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

# Of gradients of single samples that are held at once. A processor is three times faster within its caches; a GPU would
# wait for one sample's kernels after the other (ResNet-18: 45 MB of gradients each).
CHUNK_BYTES, GPU_CHUNK_BYTES = 2**24, 2**29
CHUNK_SAMPLES = 500  # where no such gradients are held


def directions(probabilities: torch.Tensor, labels: str, y: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The vectors v [K, n, C] for predictions [n, C]; K = 1, except with all labels.

    all: sqrt(p_c) (e_c - p) for each output c, the exact expectation; sampled: e_c - p, c drawn by inversion from the
    prediction with a number `uniform` [n] in [0, 1) for each sample; empirical: e_y - p.
    """
    count = probabilities.shape[1]
    if labels == "all":
        present = probabilities.gt(0).any(0).nonzero()[:, 0]  # other tasks' classes have the probability 0
        unit = torch.eye(count, dtype=probabilities.dtype, device=probabilities.device)[present]
        return probabilities.T[present].sqrt()[:, :, None] * (unit[:, None] - probabilities)
    if labels == "sampled":
        below = (probabilities.double().cumsum(1) <= uniform[:, None]).sum(1)
        last = count - 1 - probabilities.flip(1).gt(0).int().argmax(1)  # against rounding
        y = torch.minimum(below, last)
    return (nn.functional.one_hot(y, count).to(probabilities.dtype) - probabilities)[None]


class SquaredGradients:
    """The sum over samples and vectors v of (J^T v)^2, for some weights of a network that treats samples one by one.

    `mask` gives, from the logits [n, C] and the tasks [n] of samples, the logits of which the prediction is made. A
    linear layer that sees one vector per sample has the gradient g a^T, a what enters it and g what comes back: the sum
    of its squares is a matrix product, and no sample's gradient is held. The gradients of other weights are computed
    sample by sample.
    """

    magnitude = staticmethod(torch.square)  # what is added up of each sample's gradient
    products = 0  # of a vector with J^T so far: backward passes of single samples

    def __init__(self, model: nn.Module, weights: list[torch.Tensor], mask: Callable):
        self.model, self.mask = model, mask
        names = {id(weight): name for name, weight in model.named_parameters()}
        self.names = [names[id(weight)] for weight in weights]
        self.totals = {name: torch.zeros_like(weight) for name, weight in zip(self.names, weights)}
        owners: dict[int, int] = {}
        for module in model.modules():
            for weight in module.parameters(recurse=False):
                owners[id(weight)] = owners.get(id(weight), 0) + 1
        self.linear = {
            module: [(kind, names[id(weight)]) for kind, weight in module.named_parameters()]
            for module in model.modules()
            if type(module) is nn.Linear
            and all(owners[id(weight)] == 1 for weight in module.parameters())
            and any(names[id(weight)] in self.totals for weight in module.parameters())
        }

    def chunk(self, x: torch.Tensor) -> int:
        """How many samples `add` should be given at once, by a look at the way that a few take through the network."""
        with torch.no_grad():
            self.linear = {layer: self.linear[layer] for layer in self._forward(x)[1]}
        by_product = {name for parameters in self.linear.values() for _, name in parameters}
        self.others = [name for name in self.names if name not in by_product]
        held = sum(self.totals[name].nbytes for name in self.others)
        limit = CHUNK_BYTES if x.device.type == "cpu" else GPU_CHUNK_BYTES
        return max(1, limit // held) if held else CHUNK_SAMPLES

    def add(self, x: torch.Tensor, task: torch.Tensor, directions_of: Callable) -> None:
        """Add samples, transformed, after `chunk`; `directions_of` gives v [K, n, C] for the predictions [n, C]."""
        with torch.enable_grad():
            logits, passed = self._forward(x)
        with torch.no_grad():
            vectors = directions_of(self.prediction(logits, task))
        self.products += vectors.shape[0] * vectors.shape[1]
        if passed:
            for vector in vectors:
                outputs = [output for _, output in passed.values()]
                found = torch.autograd.grad(logits, outputs, vector, retain_graph=True, allow_unused=True)
                for (layer, (entered, _)), gradient in zip(passed.items(), found):
                    if gradient is not None:
                        self._add_linear(layer, self.magnitude(entered), self.magnitude(gradient))
        if self.others:
            for name, value in self._by_sample(x, vectors.transpose(0, 1)):
                self.totals[name] += value

    def prediction(self, logits: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """What the vectors v are made of."""
        return self.mask(logits, task).softmax(1)

    def _add_linear(self, layer: nn.Linear, entered: torch.Tensor, gradient: torch.Tensor) -> None:
        for kind, name in self.linear[layer]:
            if name in self.totals:
                self.totals[name] += gradient.sum(0) if kind == "bias" else gradient.T @ entered

    def _by_sample(self, x: torch.Tensor, vectors: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and sums of squares, for x [n, ...] and v [n, K, C]."""
        parameters = {name: value.detach() for name, value in self.model.named_parameters()}
        weights = {name: parameters.pop(name) for name in self.others}
        parameters |= dict(self.model.named_buffers())

        def squares(weights, x, vectors):
            _, pull = vjp(lambda weights: functional_call(self.model, (weights, parameters), (x[None],))[0], weights)
            totals = dict.fromkeys(weights, 0)
            for vector in vectors:
                gradient = pull(vector)[0]
                totals = {name: totals[name] + self.magnitude(gradient[name]) for name in weights}
            return totals

        for name, value in vmap(squares, in_dims=(None, 0, 0))(weights, x, vectors).items():
            yield name, value.sum(0)

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[nn.Linear, tuple[torch.Tensor, torch.Tensor]]]:
        """Logits, and what entered and left each linear layer that saw one vector per sample, once."""
        seen: dict[nn.Linear, list] = {layer: [] for layer in self.linear}

        def watch(layer, inputs, output):
            seen[layer].append((inputs[0].detach(), output))
            return output.clone()  # what changes it in place afterwards leaves ours as it is

        hooks = [layer.register_forward_hook(watch) for layer in self.linear]
        try:
            logits = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, {
            layer: calls[0]
            for layer, calls in seen.items()
            if len(calls) == 1 and calls[0][0].dim() == 2 and len(calls[0][0]) == len(x)
        }
