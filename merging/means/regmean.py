"""RegMean (Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, eq. 2)."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from cl.values import Count, Fraction
from merging.align.responses import show
from merging.fusion import Context, Models, State, WeightFusion, mean_state

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
# Layers that are linear in their input, with the names of the weights that multiply it.
LINEAR = {
    nn.Linear: ("weight",),
    nn.modules.conv._ConvNd: ("weight",),
    nn.Bilinear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}


class RegMean(WeightFusion):
    """For each linear layer W = (sum_i G_i)^+ sum_i G_i W_i, the least squares fit to the outputs of that layer.

    G_i = w_i X_i^T X_i / n, where X_i are the layer's inputs in model i on n = `samples_per_task` images of its task,
    without labels; off-diagonal entries are multiplied by `shrink` (section 4.2). X_i includes padding and all calls of
    the layer. A convolution is linear in its patches, and each of its groups is treated as a layer. All other weights,
    and directions without any input, are averaged. With `bias` a layer's bias is fitted with its weights, as the column
    for an input that is always 1; the paper averages it. With running=true the merge so far counts as a model of all
    its tasks.
    """

    needs_tasks = True

    def __init__(self, samples_per_task: Count = 500, shrink: Fraction = 0.9, bias: bool = False):
        self.samples_per_task, self.shrink, self.bias = samples_per_task, shrink, bias

    def check(self, network: nn.Module, sample_shape: tuple[int, ...]) -> None:
        grams(network, network.state_dict(), torch.zeros(2, *sample_shape, device=next(network.parameters()).device))

    def __call__(self, models: Models, context: Context) -> State:
        biases: dict[str, str] | None = {} if self.bias else None
        of_models = [
            grams(context.network, state, context.images(tasks, len(tasks) * self.samples_per_task), biases)
            for tasks, state in zip(models.tasks, models.states)
        ]
        if not models.merged:  # a merge so far is run on the images of all earlier tasks again
            context.keep(of_models)
        result = mean_state(models, models.states)
        for name in models.parameters:
            if all(name in own for own in of_models):
                own = [weight * self.shrunk(gram[name]) for weight, gram in zip(models.weights, of_models)]
                if biases and name in biases:
                    mean, *states = (_joined(state, name, biases[name]) for state in (result, *models.states))
                    fitted = _fit(own, states, mean)
                    result[name] = fitted[:, :-1].reshape(result[name].shape)
                    result[biases[name]] = fitted[:, -1].contiguous()
                else:
                    result[name] = _fit(own, [state[name] for state in models.states], result[name])
        return result

    def shrunk(self, gram: torch.Tensor) -> torch.Tensor:
        """The matrix with its off-diagonal entries times `shrink`."""
        return self.shrink * gram + (1 - self.shrink) * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))


def grams(network: nn.Module, state: State, images: torch.Tensor, biases: dict[str, str] | None = None) -> State:
    """X^T X / n for each weight that multiplies an input: [d, d], or [groups, d, d] for a grouped convolution.

    With `biases` the inputs of a layer with a bias have a last column of ones, and the name of the bias is added there.

    Raises ValueError for a layer without such a product: one that transforms its weights first, a transposed
    convolution, or one whose inputs are hidden (torch's fused attention).
    """
    found: State = {}

    def see(name: str, rows: torch.Tensor) -> None:
        x = rows.double()
        found[name] = found.get(name, 0) + x.mT @ x / len(images)

    with _called(network) as called, _Products(state, see, biases):
        show(network, state, images)
    for name, weight in called.items():
        if weight not in found:
            kind = type(network.get_submodule(name)).__name__
            raise ValueError(
                "fusion=regmean needs weights that multiply the layer's input unchanged, but no such product was seen "
                f"in {name} ({kind}): choose another fusion"
            )
    return found


class _Products(TorchFunctionMode):
    """Inside this block, each product of an input with one of the state's weights calls `see(name, rows)`.

    With `biases` rows have a last column of ones where a bias is added, whose name is noted there.
    """

    def __init__(self, state: State, see: Callable[[str, torch.Tensor], None], biases: dict[str, str] | None):
        super().__init__()
        self.names, self.see, self.biases = {id(value): name for name, value in state.items()}, see, biases

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.linear:
            self.seen(_linear_rows, *args, **kwargs)
        elif func in CONVOLUTIONS:
            self.seen(_patches, *args, **kwargs)
        return func(*args, **kwargs)

    def seen(self, rows_of, input, weight, bias=None, *args, **kwargs) -> None:
        name = self.names.get(id(weight))
        if name is None:
            return
        rows = rows_of(input, weight, bias, *args, **kwargs)
        if self.biases is not None and id(bias) in self.names:
            self.biases[name], rows = self.names[id(bias)], F.pad(rows, (0, 1), value=1.0)
        self.see(name, rows)


@contextmanager
def _called(network: nn.Module):
    """Collect the linear layers called inside this block: a dict from the layer's name to that of its weights."""
    called: dict[str, str] = {}
    handles = []
    for name, module in network.named_modules():
        for kind, weights in LINEAR.items():
            own = [weight for weight in weights if getattr(module, weight, None) is not None]
            if isinstance(module, kind):
                mark = {name: f"{name}.{own[0]}" if name else own[0]}
                handles.append(module.register_forward_pre_hook(lambda *_, mark=mark: called.update(mark)))
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _linear_rows(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[n, fan in]: the inputs that a linear layer's weights multiply."""
    return given.reshape(-1, given.shape[-1])


def _patches(
    given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride=1, padding=0, dilation=1,
    groups: int = 1,
) -> torch.Tensor:  # fmt: skip
    """[n, fan in], or [groups, n, fan in]: the patches that a convolution's weights multiply."""
    sizes = weight.shape[2:]
    stride, dilation = (_each(number, len(sizes)) for number in (stride, dilation))
    if padding == "same":  # torch pads an odd total with one more at the end
        totals = [step * (size - 1) for step, size in zip(dilation, sizes)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(one, one) for one in _each(0 if padding == "valid" else padding, len(sizes))]
    x = F.pad(given, [side for pair in reversed(sides) for side in pair])
    for dim, (size, step, gap) in enumerate(zip(sizes, stride, dilation), start=2):
        x = x.unfold(dim, gap * (size - 1) + 1, step)[..., ::gap]  # [N, C, places..., size...]
    x = x.movedim(1, 1 + len(sizes))  # [N, places..., C, size...]
    if groups == 1:
        return x.reshape(-1, weight[0].numel())
    return x.reshape(-1, groups, weight[0].numel()).movedim(1, 0)


def _each(number: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    return (number,) * dims if isinstance(number, int) else tuple(number) * (dims if len(number) == 1 else 1)


def _joined(state: State, weight: str, bias: str) -> torch.Tensor:
    """[outputs, fan in + 1]: the weights of a layer with its bias as the last column."""
    return torch.cat([state[weight].flatten(1), state[bias][:, None]], 1)


def _fit(grams: list[torch.Tensor], weights: list[torch.Tensor], mean: torch.Tensor) -> torch.Tensor:
    """The least squares fit, computed as a step from the mean; directions without any input keep the mean."""
    if grams[0].dim() == 3:
        parts = zip(*(each.chunk(len(grams[0])) for each in (*weights, mean)))
        return torch.cat([_fit([gram[i] for gram in grams], own, mid) for i, (*own, mid) in enumerate(parts)])
    total = sum(grams)
    # Without inputs that are always 0 (padding around maps of one pixel): LAPACK fails on some matrices of mostly 0.
    lit = total.diag() > 0
    steps = sum(
        gram[lit][:, lit] @ (own.double() - mean.double()).flatten(1)[:, lit].T for gram, own in zip(grams, weights)
    )
    step = torch.zeros_like(mean, dtype=torch.float64).flatten(1)
    step[:, lit] = (torch.linalg.pinv(total[lit][:, lit], rtol=1e-10, hermitian=True) @ steps).T
    return (mean.double() + step.view_as(mean)).to(mean.dtype)
