"""AdaMerging against Adam and gradients computed with numpy, and what it tells."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from cl.scenarios.outputs import TaskOutputs
from merging.fusion import Models
from merging.vectors.adamerging import AdaMerging


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))


@dataclass
class Context:
    outputs: TaskOutputs
    network: nn.Module = field(default_factory=lambda: net(0))
    steps: int = 0
    recorded: dict = field(default_factory=dict)

    def images(self, tasks, count):
        return 2 * torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(sum(tasks)))

    def progress(self, _, items):
        return items

    def stepped(self, steps):
        self.steps += steps

    def record(self, name, measure):
        self.recorded[name] = measure()


def models() -> Models:
    states = [{name: value.detach() for name, value in net(seed).state_dict().items()} for seed in (1, 2)]
    return Models(states, [0.5, 0.5], list(states[0]), net(99).state_dict())


OUTPUTS = {
    "class": TaskOutputs(4, [range(2), range(2, 4)]),
    "task": TaskOutputs(4, [range(2), range(2, 4)], task_aware=True),
}


def entropy_of(factors: np.ndarray, given: Models, pictures: list[np.ndarray], told: bool) -> float:
    """The sum over the tasks of the entropy of one picture's prediction, for factors [tensors, models]."""
    weights = {}
    for row, name in zip(factors, given.parameters):
        start = given.initial[name].double().numpy()
        weights[name] = start + sum(f * (state[name].double().numpy() - start) for f, state in zip(row, given.states))
    total = 0.0
    for task, x in enumerate(pictures):
        logits = np.tanh(weights["1.weight"] @ x + weights["1.bias"]) @ weights["3.weight"].T
        logits = logits[2 * task : 2 * task + 2] if told else logits
        chances = np.exp(logits) / np.exp(logits).sum()
        total -= (chances * np.log(chances)).sum()
    return total


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_factors_are_those_of_adam_on_the_entropy(kind):
    """With one picture of each task all draws are the same."""
    given, context = models(), Context(OUTPUTS[kind])
    merged = AdaMerging(samples_per_task=1, steps=4, batch=3, lr=0.01, start=0.4)(given, context)
    pictures = [context.images([task], 1).double().flatten().numpy() for task in (0, 1)]
    factors, mean, square, losses = np.full((3, 2), 0.4), 0.0, 0.0, []
    for step in range(1, 5):
        losses.append(entropy_of(factors, given, pictures, kind == "task") / 2)
        gradient = np.zeros_like(factors)
        for place in np.ndindex(factors.shape):
            nudge = np.zeros_like(factors)
            nudge[place] = 1e-6
            up, down = (entropy_of(factors + sign * nudge, given, pictures, kind == "task") for sign in (1, -1))
            gradient[place] = (up - down) / 2e-6
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        factors = factors - 0.01 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    told = context.recorded["adamerging"]
    assert np.allclose(list(told["lambdas"].values()), factors, atol=1e-4) and list(told["lambdas"]) == given.parameters
    assert told["entropies"] == pytest.approx(losses, abs=1e-4) and losses[-1] < losses[0]
    assert context.steps == 4
    for row, name in zip(factors, given.parameters):
        start = given.initial[name]
        expected = start + sum(f * (state[name] - start) for f, state in zip(row.tolist(), given.states))
        assert torch.allclose(merged[name], expected, atol=1e-4), name


def test_factors_stay_between_0_and_1():
    context = Context(OUTPUTS["class"])
    AdaMerging(samples_per_task=3, steps=60, lr=0.1)(models(), context)
    factors = np.array(list(context.recorded["adamerging"]["lambdas"].values()))
    assert factors.min() >= 0 and factors.max() == 1


def test_batch_norm_takes_the_batch_and_the_scratch_network_is_left_as_it_is():
    made = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    states = [{k: v + 0.1 * i if v.is_floating_point() else v for k, v in made.state_dict().items()} for i in range(3)]
    names = [name for name, _ in made.named_parameters()]
    context = Context(OUTPUTS["class"], made.eval())
    merged = AdaMerging(samples_per_task=8, steps=2)(Models(states[1:], [0.5, 0.5], names, states[0]), context)
    assert not any(module.training for module in made.modules())
    assert torch.allclose(merged["1.running_mean"], torch.full((3,), 0.15)) and merged["1.num_batches_tracked"] == 0
    assert not merged["0.weight"].requires_grad
