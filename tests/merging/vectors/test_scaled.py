"""scale=search: the best scale of a grid, what it starts from in the next step, and what it says."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from merging.fusion import Models
from merging.vectors.dare import Dare
from merging.vectors.iso_c import IsoC
from merging.vectors.magmax import Magmax
from merging.vectors.scaled import SCALES
from merging.vectors.task_arithmetic import TaskArithmetic
from merging.vectors.ties import Ties
from merging.vectors.tsvm import Tsvm
from merging.vectors.wudi import Wudi

ALL = [TaskArithmetic, Ties, Dare, Magmax, Wudi, Tsvm, IsoC]


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4))


@dataclass
class Context:
    """Labelled samples of two tasks, and scores by the accuracy on them."""

    network: nn.Module = field(default_factory=lambda: net(0))
    asked: list = field(default_factory=list)
    recorded: dict = field(default_factory=dict)

    def labelled(self, tasks, per_task, trained=True):
        self.asked.append((list(tasks), per_task, trained))
        random = torch.Generator().manual_seed(1)
        x = torch.randn(200, 1, 3, 3, generator=random)
        return SimpleNamespace(x=x, y=net(50)(x).argmax(1))

    def recalibrate_batch_norm(self, network, tasks):
        pass

    @torch.no_grad()
    def score(self, network, samples):
        logits = network(samples.x)
        return nn.functional.cross_entropy(logits, samples.y).item(), (
            logits.argmax(1) == samples.y
        ).float().mean().item()

    def record(self, name, measure):
        self.recorded[name] = measure()


def models(*seeds: int, **more) -> Models:
    """Models that have moved from a common start towards the one that made the labels, and somewhere else."""
    goal, start = net(50).state_dict(), net(99).state_dict()
    states = [
        {name: (start[name] + 0.4 * (goal[name] - start[name]) + 0.05 * torch.randn_like(value)).detach()
         for name, value in net(seed).state_dict().items()}
        for seed in seeds
    ]  # fmt: skip
    return Models(states, [1 / len(seeds)] * len(seeds), list(start), start, **more)


def accuracies(fusion, given: Models, context: Context) -> list[tuple[float, float]]:
    """The score of every scale, computed with numpy from the merge at scale 1."""
    samples, found = context.labelled([], 0), []
    merged = fusion(scale=1.0)(given, context)
    for scale in SCALES:
        w = {n: (given.initial[n] + scale * (merged[n] - given.initial[n])).detach().double().numpy() for n in merged}
        x = samples.x.flatten(1).double().numpy()
        logits = np.maximum(x @ w["1.weight"].T + w["1.bias"], 0) @ w["3.weight"].T + w["3.bias"]
        shifted = logits - logits.max(1, keepdims=True)
        loss = (np.log(np.exp(shifted).sum(1)) - shifted[range(200), samples.y.numpy()]).mean()
        found.append(((logits.argmax(1) == samples.y.numpy()).mean(), -loss))
    return found


@pytest.mark.parametrize("fusion", ALL)
def test_the_scale_with_the_highest_accuracy_is_found_and_told(fusion):
    given, context = models(1, 2), Context()
    expected = accuracies(fusion, given, context)
    best = SCALES[max(range(len(SCALES)), key=expected.__getitem__)]
    context.asked.clear()
    merged = fusion(scale="search", samples_per_task=7)(given, context)
    assert context.asked == [([0, 1], 7, False)]  # once, and not trained on, so that they are counted here
    told = context.recorded["scale_search"]
    assert told["scale"] == best and told["scales"] == SCALES
    assert told["accuracies"] == pytest.approx([accuracy for accuracy, _ in expected], abs=1e-6)
    fixed = fusion(scale=best)(given, context)
    assert all(torch.allclose(value, fixed[name], atol=1e-5) for name, value in merged.items())


def test_the_best_is_neither_the_first_nor_the_last_nor_that_of_no_search():
    expected = accuracies(TaskArithmetic, models(1, 2), Context())
    best = SCALES[max(range(len(SCALES)), key=expected.__getitem__)]
    assert SCALES[0] < best < SCALES[-1] and best != 1.0


def test_a_running_search_goes_on_from_the_vector_before_its_scale():
    """MagMax one by one is MagMax at once, whatever the scales on the way were."""
    context, carried = Context(), {}
    states = models(1, 2, 3).states
    merged, scales = states[0], []
    for number, state in enumerate(states):
        own = [state] if not number else [merged, state]
        weights = [1.0] if not number else [number / (number + 1), 1 / (number + 1)]
        given = Models(own, weights, list(state), net(99).state_dict(), merged=number, carried=carried)
        merged = Magmax(scale="search")(given, context)
        scales.append(carried["scale"])
    assert len(set(scales)) > 1 and carried == {"scale": context.recorded["scale_search"]["scale"]}
    at_once = Magmax(scale=scales[-1])(models(1, 2, 3))
    assert all(torch.allclose(value, at_once[name], atol=1e-5) for name, value in merged.items())
