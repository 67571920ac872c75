"""RegMean (Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, eq. 2)."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from cl.values import Count, Share
from merging.align.responses import show
from merging.fusion import Context, Models, State, WeightFusion, mean_state

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
# Layers that are linear in their input, with the weights that should be multiplied with it as they are.
LINEAR = {
    nn.Linear: ("weight",),
    nn.modules.conv._ConvNd: ("weight",),
    nn.Bilinear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}


class RegMean(WeightFusion):
    """For each linear layer W = (sum_i G_i)^+ sum_i G_i W_i, the least squares fit to what each model's layer gives.

    G_i = w_i X_i^T X_i / n from the inputs X_i of the layer in model i on `samples_per_task` images of its own task,
    without labels; entries off the diagonal are multiplied by `shrink` (section 4.2). X_i is what the weights really
    are multiplied with, padded, and of all calls of the layer. A convolution is linear in its patches, and each of its
    groups is a layer by itself. All other weights, and the directions that no input has, are averaged. One model at a
    time, what was merged so far counts as a model of all its tasks.
    """

    needs_tasks = True

    def __init__(self, samples_per_task: Count = 500, shrink: Share = 0.9):
        self.samples_per_task, self.shrink = samples_per_task, shrink

    def check(self, network: nn.Module, sample_shape: tuple[int, ...]) -> None:
        grams(network, network.state_dict(), torch.zeros(2, *sample_shape, device=next(network.parameters()).device))

    def __call__(self, models: Models, context: Context) -> State:
        of_models = [
            grams(context.network, state, context.images(tasks, len(tasks) * self.samples_per_task))
            for tasks, state in zip(models.tasks, models.states)
        ]
        result = mean_state(models, models.states)
        for name in models.parameters:
            if all(name in own for own in of_models):
                own = [weight * self.shrunk(gram[name]) for weight, gram in zip(models.weights, of_models)]
                result[name] = _fit(own, [state[name] for state in models.states], result[name])
        return result

    def shrunk(self, gram: torch.Tensor) -> torch.Tensor:
        return self.shrink * gram + (1 - self.shrink) * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))


def grams(network: nn.Module, state: State, images: torch.Tensor) -> State:
    """X^T X / n of every weight that is multiplied with an input: [d, d], or [groups, d, d] of a convolution in groups.

    Raises ValueError for a layer that changes its weights before, so that it is not linear in them, and for one whose
    inputs cannot be seen (torch's attention in one piece).
    """
    found: State = {}

    def see(name: str, rows: torch.Tensor) -> None:
        x = rows.double()
        found[name] = found.get(name, 0) + x.mT @ x / len(images)

    with _called(network) as called, _Products(state, see):
        show(network, state, images)
    for name, weight in called.items():
        if weight not in found:
            kind = type(network.get_submodule(name)).__name__
            raise ValueError(
                f"fusion=regmean fits weights that multiply a layer's input as they are, which {name} ({kind}) is not "
                "seen to do: choose another fusion"
            )
    return found


class _Products(TorchFunctionMode):
    """Within it, `see(name, rows)` is told of every product of an input with one of the state's weights."""

    def __init__(self, state: State, see: Callable[[str, torch.Tensor], None]):
        super().__init__()
        self.names, self.see = {id(value): name for name, value in state.items()}, see

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.linear:
            self.seen(_linear_rows, *args, **kwargs)
        elif func in CONVOLUTIONS:
            self.seen(_patches, *args, **kwargs)
        return func(*args, **kwargs)

    def seen(self, rows_of, input, weight, *args, **kwargs) -> None:
        name = self.names.get(id(weight))
        if name is not None:
            self.see(name, rows_of(input, weight, *args, **kwargs))


@contextmanager
def _called(network: nn.Module):
    """The linear layers that are called within it, by name, each with the name of its weights."""
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
    """[n, fan in]: everything that a linear layer's weights are multiplied with."""
    return given.reshape(-1, given.shape[-1])


def _patches(
    given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride=1, padding=0, dilation=1,
    groups: int = 1,
) -> torch.Tensor:  # fmt: skip
    """[n, fan in], or [groups, n, fan in]: the patches that a convolution's weights are multiplied with."""
    sizes = weight.shape[2:]
    stride, dilation = (_each(number, len(sizes)) for number in (stride, dilation))
    if padding == "same":  # torch has what cannot be halved at the end
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


def _fit(grams: list[torch.Tensor], weights: list[torch.Tensor], mean: torch.Tensor) -> torch.Tensor:
    """As a step from the mean, which stays in the directions that no input has."""
    if grams[0].dim() == 3:
        parts = zip(*(each.chunk(len(grams[0])) for each in (*weights, mean)))
        return torch.cat([_fit([gram[i] for gram in grams], own, mid) for i, (*own, mid) in enumerate(parts)])
    total = sum(grams)
    # Inputs that are always 0, as padding around maps of one pixel, are left out: they tell nothing, and LAPACK fails
    # on some matrices that are mostly 0.
    lit = total.diag() > 0
    steps = sum(
        gram[lit][:, lit] @ (own.double() - mean.double()).flatten(1)[:, lit].T for gram, own in zip(grams, weights)
    )
    step = torch.zeros_like(mean, dtype=torch.float64).flatten(1)
    step[:, lit] = (torch.linalg.pinv(total[lit][:, lit], rtol=1e-10, hermitian=True) @ steps).T
    return (mean.double() + step.view_as(mean)).to(mean.dtype)
