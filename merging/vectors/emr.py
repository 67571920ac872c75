"""EMR-Merging (Huang et al. 2024, EMR-Merging: Tuning-Free High-Performance Model Merging): elect, mask, rescale."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call

from merging.fusion import Context, Fusion, Models, State, flatten


class Emr(Fusion):
    """theta_0 + lambda_i M_i tau for the task of model i: one elected task vector tau, and a mask and a factor by task.

    Entry by entry tau has the sign of the sum of all tau_i and the largest magnitude of those with that sign; M_i keeps
    the entries in which tau and tau_i have the same sign, and lambda_i = sum |tau_i| / sum |M_i tau| (section 3.2). The
    task of a test sample has to be known. What is not trained, such as batch-norm's statistics, is that of model i.
    """

    uses_weights, needs_initial, needs_known_task = False, True, True

    def network(self, models: Models, context: Context) -> nn.Module:
        start = flatten(models.need_initial("emr"), models.parameters)
        vectors = [flatten(state, models.parameters) - start for state in models.states]
        elected = elect(vectors)
        masks = [vector * elected > 0 for vector in vectors]
        factors = [factor(vector, elected, mask) for vector, mask in zip(vectors, masks)]
        network = copy.deepcopy(context.network)
        network.load_state_dict(models.initial)
        made = ByTask(network, elected, [pack(mask) for mask in masks], factors)
        for number, state in enumerate(models.states):
            made.keep_buffers(number, state)
        made.which = {task: number for number, tasks in enumerate(models.tasks) for task in tasks}
        context.keep([{"factors": made.factors, **{str(number): mask for number, mask in enumerate(made.masks())}}])
        return made


def elect(vectors: list[torch.Tensor]) -> torch.Tensor:
    """The sign of the sum, and the largest magnitude among the entries that have it; 0 where the sum is 0."""
    sign = torch.sign(sum(vectors))
    largest = torch.zeros_like(sign)
    for vector in vectors:
        largest = torch.maximum(largest, vector * sign)
    return sign * largest


def factor(vector: torch.Tensor, elected: torch.Tensor, mask: torch.Tensor) -> float:
    """What brings the masked elected vector to the mean magnitude of the model's own; 1 where nothing is left."""
    left = elected[mask].abs().sum(dtype=torch.float64).item()
    return vector.abs().sum(dtype=torch.float64).item() / left if left else 1.0


def pack(mask: torch.Tensor) -> torch.Tensor:
    """A mask [n] as bytes [n / 8]: one bit for each entry."""
    bits = torch.zeros(-(-len(mask) // 8) * 8, dtype=torch.uint8, device=mask.device)
    bits[: len(mask)] = mask
    return (bits.view(-1, 8) << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The mask [count] that was packed."""
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten()[:count].bool()


class ByTask(nn.Module):
    """A network whose weights depend on the task of the samples: `for_task` gives the function for those of a task.

    `network` has the weights of the common init, `elected` [weights] is added to them where the task's packed mask
    says, times its factor. Samples of a task of no model get all of `elected`. `which`: the model of each task.
    """

    def __init__(self, network: nn.Module, elected: torch.Tensor, masks: list[torch.Tensor], factors: list[float]):
        super().__init__()
        self.network = network
        self.register_buffer("elected", elected)
        self.register_buffer("factors", torch.tensor(factors, device=elected.device))
        for number, mask in enumerate(masks):
            self.register_buffer(f"mask{number}", mask)
        self.which: dict[int, int] = {}

    def keep_buffers(self, number: int, state: State) -> None:
        """Keep what a model has beside its trained weights."""
        for name, _ in self.network.named_buffers():
            self.register_buffer(_place(number, name), state[name].clone())

    def masks(self) -> list[torch.Tensor]:
        """The packed masks of all models."""
        return [getattr(self, f"mask{number}") for number in range(len(self.factors))]

    def for_task(self, task: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """The outputs for images of a task."""
        number = self.which.get(task)
        if number is None:
            return self
        mask = unpack(self.masks()[number], len(self.elected))
        weights = self._weights(self.elected * mask * self.factors[number])
        weights |= {name: getattr(self, _place(number, name)) for name, _ in self.network.named_buffers()}
        return partial(self._call, weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._call(self._weights(self.elected), x)

    def _weights(self, moved: torch.Tensor) -> State:
        named = {name: weight for name, weight in self.network.named_parameters() if weight.requires_grad}
        parts = moved.split([weight.numel() for weight in named.values()])
        return {
            name: weight.detach() + part.view_as(weight).to(weight.dtype)
            for (name, weight), part in zip(named.items(), parts)
        }

    def _call(self, weights: State, x: torch.Tensor) -> torch.Tensor:
        return functional_call(self.network, weights, (x,))


def _place(number: int, name: str) -> str:
    """The name under which a model's buffer is kept; torch takes none with a dot."""
    return f"model{number}/{name.replace('.', '/')}"
