"""Cosines between the gradients of the losses of single samples."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from cl.strategies.fisher import CHUNK_BYTES, GPU_CHUNK_BYTES

TINY = 1e-24  # for the square of a length: a gradient of 0 has no direction


def cosines(
    model: nn.Module, weights: list[torch.Tensor], mask: Callable, x: torch.Tensor, y: torch.Tensor,
    task: torch.Tensor, known: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """[n - known, known]: of each later sample with each of the first `known` ones, of transformed images x [n, ...].

    The second value [known]: of the mean gradient of the later samples with each of the first ones. The gradients are
    those of the cross entropy by some `weights` of a network that treats samples one by one; `mask` gives the logits of
    the loss from logits and tasks. Where all of the weights belong to linear layers that see one vector per sample, no
    gradient is held: that of such a layer is g a^T, a what enters it and g what comes back, and the product of two of
    them is (g . g')(a . a').
    """
    layers = linear_layers(model, weights)
    if layers:
        entered: dict[nn.Linear, list[tuple]] = {layer: [] for layer in layers}

        def watch(layer, inputs, output):
            entered[layer].append((inputs[0], output))
            return output.clone()  # what changes it in place afterwards leaves ours as it is

        hooks = [layer.register_forward_hook(watch) for layer in layers]
        try:
            with torch.enable_grad():
                logits = model(x)
        finally:
            for hook in hooks:
                hook.remove()
        if all(len(calls) == 1 and calls[0][0].dim() == 2 for calls in entered.values()):
            with torch.enable_grad():
                loss = F.cross_entropy(mask(logits, task), y, reduction="sum")
            return _by_layers(loss, [entered[layer][0] for layer in layers], list(layers.values()), known)
    first, found, total = [], [], 0
    for part in _gradients(model, weights, mask, x, y, task):
        left = known - sum(map(len, first))
        first.append(F.normalize(part[:left]))
        if len(part) > left:
            found.append(F.normalize(part[left:]) @ torch.cat(first).T)
            total = total + part[left:].sum(0)
    return torch.cat(found), torch.cat(first) @ F.normalize(total, dim=0)


def linear_layers(model: nn.Module, weights: list[torch.Tensor]) -> dict[nn.Linear, tuple[bool, bool]]:
    """The linear layers with whether weight and bias are among the weights; empty if others own some of these."""
    wanted = {id(weight) for weight in weights}
    layers = {
        layer: (id(layer.weight) in wanted, layer.bias is not None and id(layer.bias) in wanted)
        for layer in model.modules()
        if type(layer) is nn.Linear
    }
    trained = {layer: kinds for layer, kinds in layers.items() if any(kinds)}
    return trained if sum(sum(kinds) for kinds in trained.values()) == len(wanted) else {}


@torch.no_grad()
def _by_layers(
    loss: torch.Tensor, calls: list[tuple[torch.Tensor, torch.Tensor]], kinds: list[tuple[bool, bool]], known: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines from what entered and left each layer, `kinds`: whether its weight and its bias count."""
    products = 0  # [n, n], of all gradients
    returned = torch.autograd.grad(loss, [output for _, output in calls])
    for (entered, _), back, (weight, bias) in zip(calls, returned, kinds):
        products += (back @ back.T) * (weight * (entered @ entered.T) + bias)
    lengths = products.diagonal().clamp(min=TINY).sqrt()
    total = products[known:, known:].sum().clamp(min=TINY).sqrt()
    each = products[known:, :known] / (lengths[known:, None] * lengths[:known])
    return each, products[known:, :known].sum(0) / (total * lengths[:known])


def _gradients(
    model: nn.Module, weights: list[torch.Tensor], mask: Callable, x: torch.Tensor, y: torch.Tensor, task: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The gradients of single samples: [n, weights] for some samples after others."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    trained = {names[id(weight)]: weight.detach() for weight in weights}
    others = {name: value.detach() for name, value in model.named_parameters() if name not in trained}
    others |= dict(model.named_buffers())

    def loss(trained, image, label, task) -> torch.Tensor:
        logits = functional_call(model, (trained, others), (image[None],))
        return F.cross_entropy(mask(logits, task[None]), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0))
    limit = CHUNK_BYTES if x.device.type == "cpu" else GPU_CHUNK_BYTES
    chunk = max(1, limit // sum(weight.nbytes for weight in weights))
    for parts in zip(x.split(chunk), y.split(chunk), task.split(chunk)):
        found = gradients(trained, *parts)
        yield torch.cat([value.flatten(1) for value in found.values()], dim=1)
