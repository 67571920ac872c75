"""EWC and SI: the importance of each weight, and the pull back to where it was."""

import math

import pytest
import torch
from torch import nn
from toys import batch, ready, samples

from cl.scenarios.outputs import TaskOutputs
from cl.strategies.ewc import Ewc
from cl.strategies.finetune import Finetune
from cl.strategies.fisher import SquaredGradients, directions
from cl.strategies.si import Si

DATA = samples([[255, 0], [0, 255], [50, 60], [255, 255], [7, 200], [90, 3], [0, 0]], [0, 1, 1, 0, 1, 0, 1])


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def squared_gradients(model: nn.Module, x: torch.Tensor, label: int) -> list[torch.Tensor]:
    """Of log p(label | x) for one sample."""
    loss = -nn.functional.cross_entropy(model(x[None] / 255), torch.tensor([label]))
    return [gradient**2 for gradient in torch.autograd.grad(loss, list(model.parameters()))]


def test_fisher_with_true_labels_is_the_mean_of_squared_gradients():
    model = network()
    found = ready(Ewc(1.0, 1.0, "empirical"), model).fisher(0, DATA)
    assert model.training
    model.eval()
    each = [squared_gradients(model, x, int(y)) for x, y in zip(DATA.x, DATA.y)]
    for value, *expected in zip(found, *each):
        assert torch.allclose(value, sum(expected) / len(DATA), rtol=1e-4, atol=1e-9)
        assert value.max() > 1e-7


def test_fisher_over_all_outputs_weighs_them_by_their_probability():
    model = network()
    found = ready(Ewc(1.0, 1.0, "all"), model).fisher(0, DATA)
    model.eval()
    expected = [torch.zeros_like(weight) for weight in model.parameters()]
    for x in DATA.x:
        shares = model(x[None] / 255).softmax(1)[0].tolist()
        for label, share in enumerate(shares):
            for total, square in zip(expected, squared_gradients(model, x, label)):
                total += share * square / len(DATA)
    for value, other in zip(found, expected):
        assert torch.allclose(value, other, rtol=1e-4, atol=1e-9)


def test_fisher_with_sampled_labels_is_that_of_all_outputs_on_average():
    model = network()
    strategy = ready(Ewc(1.0, 1.0, "sampled"), model)
    exact = torch.cat([value.flatten() for value in ready(Ewc(1.0, 1.0, "all"), model).fisher(0, DATA)])
    found = torch.stack(
        [torch.cat([value.flatten() for value in strategy.fisher(stage, DATA)]) for stage in range(400)]
    )
    error = found.std(0) / 20
    off = (found.mean(0) - exact).abs()
    # 27 weights, of 5 standard errors: fails by chance less than once in 50,000 seeds, and the seed is fixed
    assert (off <= 5 * error + 1e-9).all()
    assert (found.std(0) > 0).any()


def exactly(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """sum_c p_c (d log p_c / d theta)^2 in its mean over samples, one backward pass for each sample and output."""
    weights = list(model.parameters())
    total = [torch.zeros_like(weight) for weight in weights]
    for one in x:
        log_p = model(one[None])[0].log_softmax(0)
        for value in log_p:
            gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            for sum_, gradient in zip(total, gradients):
                if gradient is not None:
                    sum_ += value.exp().detach() * gradient**2 / len(x)
    return total


class Tied(nn.Module):
    """A layer that is used twice, one within a picture's rows, and one that is followed by a change in place."""

    def __init__(self):
        super().__init__()
        self.rows, self.twice, self.head = nn.Linear(3, 4), nn.Linear(8, 8), nn.Linear(8, 3, bias=False)
        self.last, self.relu, self.scale = nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        x = self.rows(x).flatten(1).tanh()
        x = self.relu(self.twice(self.twice(x)))
        return self.last(self.relu(self.head(x)) * self.scale)


NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
    "convolutional": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.ReLU(True), nn.Flatten(),
        nn.Linear(36, 4), nn.ReLU(True), nn.Linear(4, 3),
    ),
    "tied": Tied,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_fisher_equals_one_gradient_after_the_other(name):
    torch.manual_seed(4)
    model = NETWORKS[name]().double().eval()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    weights = list(model.parameters())
    squares = SquaredGradients(model, weights, lambda logits, task: logits)
    chunk = squares.chunk(x[:2])
    assert chunk > 7
    for part in (x[:4], x[4:]):
        squares.add(part, None, lambda p: directions(p, "all", torch.zeros(len(p), dtype=torch.long), None))
    assert not any(weight.grad is not None for weight in weights)
    for key, expected in zip(squares.names, exactly(model, x)):
        assert torch.allclose(squares.totals[key] / 7, expected, rtol=1e-10, atol=1e-14), key
        assert expected.max() > 1e-6


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 2), ("meta", 64)])
def test_a_gpu_is_given_the_samples_of_half_a_gigabyte_of_gradients(device, at_once):
    model = nn.Sequential(nn.Conv2d(1, 512, 64, bias=False), nn.Flatten()).to(device)  # 8 MiB of weights
    squares = SquaredGradients(model, list(model.parameters()), lambda logits, task: logits)
    assert squares.chunk(torch.zeros(2, 1, 64, 64, device=device)) == at_once


def test_fisher_of_some_weights_where_others_are_frozen():
    model = network().double().eval()
    x = torch.randn(7, 2, dtype=torch.float64)
    expected = exactly(model, x)[-2:]
    for weight in list(model.parameters())[:-2]:
        weight.requires_grad = False
    squares = SquaredGradients(model, list(model.parameters())[-2:], lambda logits, task: logits)
    with torch.no_grad():  # as whoever calls it may have it
        squares.chunk(x[:2])
        squares.add(x, None, lambda p: directions(p, "all", torch.zeros(len(p), dtype=torch.long), None))
    assert squares.names == ["4.weight", "4.bias"]
    for value, other in zip(squares.totals.values(), expected):
        assert torch.allclose(value / 7, other, rtol=1e-10)


def test_sampled_labels_miss_what_a_converged_network_holds():
    """The label that is not predicted has the chance 1e-6 and nearly all of the trace, 1/p times as large a share."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    margin = math.log(1e6)
    model[1].weight.data = torch.tensor([[margin, 0.0], [0.0, 0.0]])
    few = samples([[255, 0]] * 50, [0] * 50)

    def trace(labels: str) -> float:
        return sum(value.sum().item() for value in ready(Ewc(1.0, 1.0, labels), model).fisher(0, few))

    p = 1 / (1 + 1e6)
    # The gradient by the two weights of the pixel that is on is (e_y - p): both squares are (1 - p_y)^2.
    assert trace("all") == pytest.approx(2 * p * (1 - p), rel=1e-4)
    # 50 samples, with a chance of 5e-5 that one has the other label; 1 - p_y has two digits in single precision
    assert trace("sampled") == pytest.approx(2 * p**2, rel=0.2)
    assert trace("empirical") == pytest.approx(2 * p**2, rel=0.2)


def test_fisher_where_the_task_is_known_sees_its_outputs_only():
    outputs = TaskOutputs(4, [range(0, 2), range(2, 4)], task_aware=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False))
    for labels in ("empirical", "sampled", "all"):
        (found,) = ready(Ewc(1.0, 1.0, labels), model, outputs=outputs).fisher(0, DATA)
        assert found[:2].sum() > 0 and found[2:].abs().sum() == 0 and torch.isfinite(found).all()


def test_fewer_samples_for_the_fisher():
    model = network()
    few = ready(Ewc(1.0, 1.0, "empirical", fisher_samples=3), model).fisher(0, DATA)
    model.eval()
    each = [squared_gradients(model, x, int(y))[0] for x, y in zip(DATA.x, DATA.y)]
    sums = [a + b + c for i, a in enumerate(each) for j, b in enumerate(each[:i]) for c in each[:j]]
    assert sum(torch.allclose(few[0], value / 3, rtol=1e-4, atol=1e-9) for value in sums) == 1


def test_separate_anchors_pull_to_the_weights_of_each_earlier_task():
    strategy = ready(Ewc(3.0, fisher_labels="empirical", anchors="separate"), network(), lr=0.1)
    weights, penalties = strategy.updater.weights, []
    generator = torch.Generator().manual_seed(0)
    for stage in range(3):
        fisher = [torch.rand(weight.shape, generator=generator) for weight in weights]
        fisher[0][0] = 0  # of which nothing is known
        strategy.fisher = lambda stage, samples, fisher=fisher: fisher
        strategy.after_task(stage, DATA)
        penalties.append((fisher, [weight.detach().clone() for weight in weights]))
        with torch.no_grad():
            for weight in weights:
                weight += torch.randn(weight.shape, generator=generator)
        resumed = ready(Ewc(3.0, anchors="separate"), strategy.model)
        resumed.load_state_dict(strategy.state_dict())
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        resumed.adjust_gradients(None, [])
        for i, weight in enumerate(weights):
            pull = sum(3.0 * fisher[i] * (weight.detach() - anchor[i]) for fisher, anchor in penalties)
            assert torch.allclose(weight.grad, pull, atol=1e-4)
    assert strategy.nbytes == 2 * sum(weight.nbytes for weight in weights)
    online = ready(Ewc(3.0), strategy.model)
    assert online.anchors == "online" and online.nbytes == 0


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_penalty_of_ewc_adds_its_gradient(accumulation_steps):
    new = batch([[255, 0], [0, 255], [9, 9], [200, 70]], [0, 0, 1, 0])
    plain, held = (
        ready(strategy, network(), lr=0.1, accumulation_steps=accumulation_steps)
        for strategy in (Finetune(), Ewc(3.0, 0.5))
    )
    for strategy in (plain, held):
        strategy.observe(new)  # nothing to hold yet: the same step
    for one, other in zip(plain.model.parameters(), held.model.parameters()):
        assert torch.equal(one, other)
    held.importance = [torch.full_like(weight, 2.0) for weight in held.model.parameters()]
    held.anchor = [weight.detach() - 0.25 for weight in held.model.parameters()]
    for strategy in (plain, held):
        strategy.observe(new)
    for one, other in zip(plain.model.parameters(), held.model.parameters()):
        assert torch.allclose(one - other, torch.full_like(one, 0.1 * 3.0 * 2.0 * 0.25), atol=1e-6)


def test_importance_of_earlier_tasks_decays_by_gamma():
    strategy = ready(Ewc(1.0, 0.25, "empirical"), network())
    strategy.after_task(0, DATA)
    first = [value.clone() for value in strategy.importance]
    strategy.after_task(1, DATA)  # the same samples and weights: the same Fisher once more
    for value, before in zip(strategy.importance, first):
        assert torch.allclose(value, 1.25 * before, rtol=1e-5)
    resumed = ready(Ewc(1.0, 0.25, "empirical"), network())
    resumed.load_state_dict(strategy.state_dict())
    assert all(map(torch.equal, resumed.importance, strategy.importance))


def test_importance_of_si_is_the_path_integral_over_the_way():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data = torch.eye(2)
    strategy = ready(Si(c=0.5, xi=0.1), model, lr=0.1)
    weight = model[1].weight
    for task in range(2):
        strategy.start_task(task)
        start, path = weight.detach().clone(), torch.zeros(2, 2)
        before = [value.clone() for value in strategy.importance]
        anchor = start.clone()
        for step in range(4):
            new = batch([[255, 10 * step], [20, 255]], [0, task])
            loss = nn.functional.cross_entropy(model(new.x / 255), new.y)
            (gradient,) = torch.autograd.grad(loss, [weight])
            pull = 2 * 0.5 * before[0] * (weight.detach() - anchor) if before else 0.0
            old = weight.detach().clone()
            strategy.observe(new)
            assert torch.allclose(weight, old - 0.1 * (gradient + pull), atol=1e-6)
            path -= gradient * (weight.detach() - old)  # of the loss alone
        strategy.after_task(task, DATA)
        grown = path.clamp(min=0) / ((weight.detach() - start) ** 2 + 0.1)
        assert torch.allclose(strategy.importance[0], grown + (before[0] if before else 0.0), atol=1e-6)
        assert grown.max() > 1e-3


def test_the_way_of_si_begins_with_the_weights_that_the_task_starts_from_and_its_anchor_is_where_the_last_one_ended():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    strategy, weight, initial = ready(Si(c=0.5, xi=0.1), model, lr=0.1), model[1].weight, torch.eye(2)
    new, ends = batch([[255, 10], [20, 255]], [0, 1]), []
    for stage in range(2):
        strategy.before_task(stage, DATA)
        weight.data = initial.clone()  # set back
        strategy.start_task(stage)
        before = [value.clone() for value in strategy.importance]
        loss = nn.functional.cross_entropy(model(new.x / 255), new.y)
        (gradient,) = torch.autograd.grad(loss, [weight])
        strategy.observe(new)
        pull = before[0] * (initial - ends[0]) if stage else 0.0  # 2 c = 1
        assert torch.allclose(weight, initial - 0.1 * (gradient + pull), atol=1e-6)
        strategy.after_task(stage, DATA)
        moved = weight.detach() - initial
        grown = (-gradient * moved).clamp(min=0) / (moved**2 + 0.1)
        assert torch.allclose(strategy.importance[0], grown + (before[0] if stage else 0.0), atol=1e-7)
        ends.append(weight.detach().clone())
        assert torch.equal(strategy.anchor[0], ends[-1])


def test_a_step_that_fp16_leaves_out_adds_nothing_to_the_way_of_si():
    strategy = ready(Si(c=0.5, xi=0.1), network(), lr=0.1)
    strategy.start_task(0)
    strategy.updater.scaler = object()  # what says that gradients may be beyond its range
    for weight in strategy.updater.weights:
        weight.grad = torch.full_like(weight, torch.inf)
    strategy.adjust_gradients(batch([[1, 2]], [0]), [])
    assert all((gradient == 0).all() for gradient in strategy.loss_gradients)
