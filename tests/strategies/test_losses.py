"""The losses of the strategies against numbers worked out by hand, and the order of things in a step."""

import math

import pytest
import torch
from torch import nn

from cl.buffers.base import Records
from cl.buffers.reference import ReferenceBuffer
from cl.comm import Comm, ReduceOptions
from cl.loader import Batch
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er
from cl.strategies.finetune import Finetune
from cl.transforms import BatchTransform
from cl.updater import Updater

CPU = torch.device("cpu")
SHAPE, CLASSES = (1, 1, 2), 2


def linear(weight=((1.0, 0.0), (0.0, 1.0))) -> nn.Module:
    """Two pixels straight to two logits: with the identity, the logits are the pixels / 255."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor(weight)
    return nn.Sequential(nn.Flatten(), layer)


def ready(strategy, model=None, capacity=4, foreign_outputs=None, lr=0.0, augment=()):
    model = model or linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    transform = BatchTransform(list(augment), None, None, 1, CPU)
    buffer = None
    if strategy.uses_memory:
        fields = strategy.fields(SHAPE, CLASSES)
        buffer = ReferenceBuffer(capacity, "reservoir", "uniform", None, fields, CLASSES, 0, CPU, Comm())
    strategy.setup(model, Updater(optimizer, model, CPU, Comm(), ReduceOptions()), transform, buffer, foreign_outputs)
    return strategy


def batch(pixels, labels, tasks=None) -> Batch:
    y = torch.tensor(labels)
    x = torch.tensor(pixels, dtype=torch.uint8).view(-1, *SHAPE)
    return Batch(x, y, torch.zeros_like(y) if tasks is None else torch.tensor(tasks))


def records(pixels, labels, logits=None) -> Records:
    content = batch(pixels, labels)
    columns = {"x": content.x, "y": content.y, "task": content.task}
    if logits is not None:
        columns["logits"] = torch.tensor(logits)
    return Records(columns, torch.ones(len(labels)), torch.arange(len(labels)))


def cross_entropy(logits, label) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


NEW = batch([[255, 0], [0, 255]], [0, 0])  # logits (1, 0) and (0, 1)
NEW_LOSS = (cross_entropy((1, 0), 0) + cross_entropy((0, 1), 0)) / 2


def test_finetune_is_the_mean_cross_entropy_of_the_new_samples():
    assert ready(Finetune()).loss(NEW, []).item() == pytest.approx(NEW_LOSS, abs=1e-6)


def test_er_is_one_mean_over_new_and_replayed_samples_together():
    replayed = records([[255, 255], [0, 0], [255, 0]], [0, 1, 1])
    parts = [cross_entropy(*pair) for pair in [((1, 0), 0), ((0, 1), 0), ((1, 1), 0), ((0, 0), 1), ((1, 0), 1)]]
    loss = ready(Er(3)).loss(NEW, [replayed])
    assert loss.item() == pytest.approx(sum(parts) / 5, abs=1e-6)
    # not the mean of the two means, which weighs the three replayed samples less
    assert loss.item() != pytest.approx((sum(parts[:2]) / 2 + sum(parts[2:]) / 3) / 2, abs=1e-3)


def test_derpp_is_three_separate_means_on_two_draws():
    first = records([[255, 0], [0, 255], [0, 0]], [1, 1, 1], [[1.0, 0.0], [0.5, 0.5], [0.0, 3.0]])
    second = records([[255, 255]], [1], [[9.0, 9.0]])
    squares = [0, 0, 0.25, 0.25, 0, 9]
    expected = NEW_LOSS + 0.3 * sum(squares) / 6 + 0.7 * cross_entropy((1, 1), 1)
    assert ready(Derpp(3, alpha=0.3, beta=0.7)).loss(NEW, [first, second]).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("alpha, beta, changes", [(0.0, 0.0, False), (1.0, 0.0, True), (0.0, 1.0, True)])
def test_each_term_of_derpp_reaches_the_gradient(alpha, beta, changes):
    def gradient(strategy, draws):
        ready(strategy).loss(NEW, draws).backward()
        return strategy.model[1].weight.grad.clone()

    draws = [records([[255, 10]], [1], [[0.0, 2.0]]), records([[3, 255]], [0], [[0.0, 0.0]])]
    plain = gradient(Finetune(), [])
    assert torch.equal(gradient(Derpp(1, alpha, beta), draws), plain) is not changes


def test_first_step_replays_nothing_and_equals_fine_tuning():
    for strategy in (Er(2), Derpp(2, 0.5, 0.5)):
        assert ready(strategy).observe(NEW).item() == pytest.approx(NEW_LOSS, abs=1e-6)


def test_logits_in_memory_belong_to_their_sample_and_come_from_the_forward_pass_of_the_step():
    strategy = ready(Derpp(4, 0.5, 0.5), lr=1.0)  # a large step: logits after it would be far off
    weight = strategy.model[1].weight.detach().clone()
    strategy.observe(batch([[10, 20], [30, 40], [50, 60]], [0, 1, 0]))
    assert not torch.allclose(weight, strategy.model[1].weight)
    (draw, _) = strategy.recall()
    assert len(draw) == 3
    pixels = draw["x"].flatten(1).float() / 255
    assert torch.allclose(draw["logits"], pixels @ weight.T, atol=1e-6)
    assert draw["y"].tolist() == [{10: 0, 30: 1, 50: 0}[int(x[0, 0, 0])] for x in draw["x"]]


def test_the_two_draws_of_derpp_are_independent():
    strategy = ready(Derpp(2, 0.5, 0.5), capacity=50)
    strategy.observe(batch([[i, i] for i in range(50)], [0] * 50))
    same = 0
    for _ in range(20):
        first, second = strategy.recall()
        same += torch.equal(first["x"].sort(0).values, second["x"].sort(0).values)
        for size in strategy.draw_sizes:
            strategy.buffer.request(size)
    assert same < 3  # of 20; two of fifty drawn alike has probability 1/1225


def test_memory_holds_raw_samples_although_the_network_sees_augmented_ones():
    strategy = ready(Er(8), capacity=8, augment=["flip"])
    strategy.observe(batch([[i, 100 + i] for i in range(8)], [0] * 8))
    (draw,) = strategy.recall()
    assert sorted(draw["x"].flatten(1).tolist()) == [[i, 100 + i] for i in range(8)]


def test_replayed_samples_are_augmented_afresh():
    strategy = ready(Er(1), augment=["flip"])
    seen = set()
    strategy.network = lambda x: seen.add(tuple(x[1].flatten().tolist())) or x.flatten(1)
    for _ in range(40):  # both ways around, but for a chance of 2^-39
        strategy.loss(batch([[0, 0]], [0]), [records([[255, 0]], [0])])
    assert seen == {(1.0, 0.0), (0.0, 1.0)}


def test_each_sample_is_offered_once_and_counted():
    strategy = ready(Er(2), capacity=100)
    for start in range(0, 30, 3):
        strategy.observe(batch([[start + i, 0] for i in range(3)], [0] * 3))
    strategy.buffer.request(100)
    strategy.buffer.receive()  # the draw of the last step
    stored = strategy.buffer.receive()["x"].flatten(1)[:, 0].tolist()
    assert sorted(stored) == list(range(30))
    assert strategy.take_replayed() == 9 * 2 and strategy.take_replayed() == 0


def test_size_of_the_draw_does_not_follow_the_batch():
    strategy = ready(Er(5), capacity=100)
    for _ in range(3):
        strategy.observe(batch([[1, 2]] * 8, [0] * 8))
    (draw,) = strategy.recall()
    assert len(draw) == 5


def test_where_the_task_is_known_only_its_outputs_are_trained():
    foreign = torch.tensor([[False, False, True, True], [True, True, False, False]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False))
    strategy = ready(Finetune(), model, foreign_outputs=foreign)
    logits = model(NEW.x.float() / 255)[0].tolist()
    loss = strategy.loss(Batch(NEW.x[:1], torch.tensor([1]), torch.tensor([0])), [])
    assert loss.item() == pytest.approx(cross_entropy(logits[:2], 1), abs=1e-6)
    loss.backward()
    assert model[1].weight.grad[:2].abs().sum() > 0 and model[1].weight.grad[2:].abs().sum() == 0


def test_forward_of_several_groups_together_equals_one_by_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    strategy = ready(Finetune(), model)
    parts = [torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8) for n in (3, 1, 5)]
    for together, alone in zip(strategy.forward_each(*parts), parts):
        assert torch.allclose(together, strategy.forward(alone), atol=1e-6)


def test_batch_norm_sees_each_group_of_samples_alone():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2))
    strategy = ready(Finetune(), model)
    parts = [torch.tensor([[0, 10], [255, 20]], dtype=torch.uint8).view(-1, *SHAPE) + shift for shift in (0, 0)]
    parts[1] = parts[1] // 2
    for normalised in strategy.forward_each(*parts):
        assert torch.allclose(normalised.mean(0), torch.zeros(2), atol=1e-5)


@pytest.mark.parametrize(
    "arguments, word", [((0, 0.5, 0.5), "replay_batch_size"), ((1, -1, 0.5), "alpha"), ((1, 1, -0.1), "beta")]
)
def test_options_out_of_range_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        Derpp(*arguments)
