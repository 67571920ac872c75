"""The losses of the strategies against numbers worked out by hand, and the order of things in a step."""

import math

import pytest
import torch
from torch import nn
from toys import NEW, NEW_LOSS, SHAPE, batch, cross_entropy, ready, records

from cl.data.rows import Rows
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.der import Der
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er
from cl.strategies.er_ace import ErAce
from cl.strategies.finetune import Finetune
from cl.strategies.lwf import Lwf


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


def test_er_by_task_weighs_two_means_by_the_number_of_tasks():
    replayed = records([[255, 255], [0, 0], [255, 0]], [0, 1, 1])
    strategy = ready(Er(3, weighting="by_task"))
    strategy.before_task(3, None)
    old = (cross_entropy((1, 1), 0) + cross_entropy((0, 0), 1) + cross_entropy((1, 0), 1)) / 3
    assert strategy.loss(NEW, [replayed]).item() == pytest.approx(NEW_LOSS / 4 + old * 3 / 4, abs=1e-6)


def test_der_holds_the_logits_and_leaves_the_labels_alone():
    replayed = records([[255, 0], [0, 255]], [1, 0], [[1.0, 2.0], [0.0, 0.0]])
    expected = NEW_LOSS + 0.3 * (0 + 4 + 0 + 1) / 4
    assert ready(Der(2, alpha=0.3)).loss(NEW, [replayed]).item() == pytest.approx(expected, abs=1e-6)


def test_folded_derpp_is_one_mean_over_new_samples_and_second_draw():
    first, second = records([[255, 0]], [1], [[0.0, 0.0]]), records([[255, 255]], [1], [[9.0, 9.0]])
    expected = (2 * NEW_LOSS + cross_entropy((1, 1), 1)) / 3 + 0.3 * (1 + 0) / 2
    strategy = ready(Derpp(1, alpha=0.3, beta=None, folded=True))
    assert strategy.loss(NEW, [first, second]).item() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(strategy.remember(NEW)["logits"], torch.eye(2))


def test_er_ace_compares_new_samples_with_the_classes_of_their_batch_only():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False))
    weight = model[1].weight.detach()
    strategy = ready(ErAce(2), model, capacity=10, outputs=TaskOutputs(4))

    def rows(pixels):
        return (torch.tensor(pixels) / 255 @ weight.T).tolist()

    first = strategy.observe(batch([[255, 0], [0, 255]], [0, 1]))
    logits = rows([[255, 0], [0, 255]])
    expected = (cross_entropy(logits[0][:2], 0) + cross_entropy(logits[1][:2], 1)) / 2
    assert first.item() == pytest.approx(expected, abs=1e-6)
    new, old = batch([[9, 9]], [2]), records([[255, 0]], [0])
    strategy.recall = lambda: [old]
    # one class in the batch: nothing to tell it from; the replayed one against the three seen so far
    expected = 0 + cross_entropy(rows([[255, 0]])[0][:3], 0)
    assert strategy.observe(new).item() == pytest.approx(expected, abs=1e-6)
    resumed = ready(ErAce(2), model, capacity=10, outputs=TaskOutputs(4))
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.seen.tolist() == [True, True, True, False]


LWF_OLD = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.5, 0.0], [3.0, 0.0], [0.0, 0.0]]  # rows: outputs; columns: pixels
LWF_NEW = [[0.0, 0.0], [0.4, 0.0], [0.0, 0.3], [1.0, 0.0], [0.2, 0.0], [0.0, 0.0]]


def lwf(known: bool, task: int, shared: bool = False, **options) -> tuple[float, list[float], list[float]]:
    """The loss on the pixels (1, 0) with the label of the task's first output; logits before the task, and now."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 6, bias=False))
    outputs = TaskOutputs(6, () if shared else [range(0, 2), range(2, 4), range(4, 6)], task_aware=known)
    strategy = ready(Lwf(alpha=0.7, temperature=2.0, **options), model, outputs=outputs, stages=[[0], [1], [2]])
    model[1].weight.data = torch.tensor(LWF_OLD)
    strategy.before_task(task, None)
    model[1].weight.data = torch.tensor(LWF_NEW)
    strategy.start_task(task)
    loss = strategy.loss(batch([[255, 0]], [2 * task], [task]), [])
    loss.backward()
    assert model[1].weight.grad is not None
    assert strategy.teacher[1].weight.grad is None and strategy.teacher[1].weight.tolist() == LWF_OLD
    return loss.item(), [row[0] for row in LWF_OLD], [row[0] for row in LWF_NEW]


def distance(old, new, outputs, among=None) -> float:
    """-sum p log q at temperature 2, p over `outputs` of the old network and q of the new one `among` its outputs."""
    shares = [math.exp(old[output] / 2) for output in outputs]
    among = outputs if among is None else among
    logits = [new[output] / 2 for output in among]
    return sum(
        share / sum(shares) * cross_entropy(logits, among.index(output)) for share, output in zip(shares, outputs)
    )


def test_lwf_where_the_task_is_known_adds_up_a_distillation_for_each_task_before():
    for options, factor in (({}, 1), ({"temperature_squared": True}, 4), ({"weighting": "sum_over_tasks"}, 1)):
        loss, old, new = lwf(known=True, task=2, **options)
        expected = cross_entropy(new[4:6], 0) + 0.7 * factor * (distance(old, new, [0, 1]) + distance(old, new, [2, 3]))
        assert loss == pytest.approx(expected, abs=1e-6)
    loss, old, new = lwf(known=True, task=2, weighting="by_task")
    mean = (distance(old, new, [0, 1]) + distance(old, new, [2, 3])) / 2
    assert loss == pytest.approx(cross_entropy(new[4:6], 0) / 3 + 0.7 * mean * 2 / 3, abs=1e-6)


def test_lwf_where_tasks_are_not_told_apart_sees_the_outputs_so_far():
    loss, old, new = lwf(known=False, task=1)
    assert loss == pytest.approx(cross_entropy(new[:4], 2) + 0.7 * distance(old, new, [0, 1]), abs=1e-6)
    loss, old, new = lwf(known=False, task=1, outputs="all")
    assert loss == pytest.approx(cross_entropy(new, 2) + 0.7 * distance(old, new, [0, 1]), abs=1e-6)
    loss, old, new = lwf(known=False, task=1, distilled="seen")  # outputs 2 and 3 have the target 0
    assert loss == pytest.approx(cross_entropy(new[:4], 2) + 0.7 * distance(old, new, [0, 1], [0, 1, 2, 3]), abs=1e-6)
    every = [0, 1, 2, 3, 4, 5]
    loss, old, new = lwf(known=False, task=1, outputs="all", distilled="all", weighting="sum_over_tasks")
    assert loss == pytest.approx(cross_entropy(new, 2) + 0.7 * distance(old, new, every), abs=1e-6)


def test_lwf_where_tasks_share_their_outputs_may_distil_once_for_each_task_before():
    every = [0, 1, 2, 3, 4, 5]
    for weighting, ours, theirs in (("together", 1, 1), ("sum_over_tasks", 1, 2), ("by_task", 1 / 3, 2 / 3)):
        loss, old, new = lwf(known=False, task=2, shared=True, weighting=weighting)
        expected = ours * cross_entropy(new, 4) + theirs * 0.7 * distance(old, new, every)
        assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_lwf_warms_up_the_outputs_of_the_new_task_alone(known):
    outputs = TaskOutputs(4, [range(0, 2), range(2, 4)], task_aware=known)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    strategy = ready(Lwf(alpha=0.7, warmup_steps=2), model, outputs=outputs, stages=[[0], [1]])
    strategy.updater.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    new = batch([[255, 0], [30, 255]], [2, 3], [1, 1])
    strategy.before_task(0, None)
    strategy.observe(batch([[255, 0], [30, 255]], [0, 1], [0, 0]))  # fills the momentum of all weights
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strategy.before_task(1, None)
    for _ in range(2):
        strategy.observe(new)
        for name, value in model.state_dict().items():
            old, left = (value[:2], before[name][:2]) if name.startswith("4.") else (value, before[name])
            assert torch.equal(old, left), name
        assert model.training
    assert not torch.equal(model[4].weight[2:], before["4.weight"][2:])
    strategy.observe(new)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


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
    outputs = TaskOutputs(4, [range(0, 2), range(2, 4)], task_aware=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False))
    strategy = ready(Finetune(), model, outputs=outputs)
    logits = model(NEW.x.float() / 255)[0].tolist()
    loss = strategy.loss(Rows({"x": NEW.x[:1], "y": torch.tensor([1]), "task": torch.tensor([0])}), [])
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
