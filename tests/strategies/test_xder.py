"""X-DER: the loss and the revised logits by hand, and what the memory holds after each task."""

import math

import pytest
import torch
from torch import nn
from toys import CPU, SHAPE, batch, cross_entropy, ready

from cl.buffers.base import Records
from cl.buffers.reference import ReferenceBuffer
from cl.distributed.comm import Comm
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.xder import Xder, implanted, violation

TASKS = [range(0, 2), range(2, 4), range(4, 6)]
ROWS = [[1.0, 0.5], [0.2, 2.0], [0.4, 0.1], [0.0, 0.6], [0.9, 0.0], [-0.3, 0.4]]  # weights: outputs by pixels


def xder(replay_batch_size, alpha=0.5, beta=0.5, lambda_=0.0, **options):
    return Xder(replay_batch_size, alpha, beta, lambda_=lambda_, **options)


def begun(strategy, stage=0, capacity=12, seed=3, **more):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 6, bias=False))
    model[1].weight.data = torch.tensor(ROWS)
    stages = [[0], [1], [2]]
    strategy = ready(strategy, model, capacity, TaskOutputs(6, TASKS), stages=stages, seed=seed, **more)
    fields = strategy.fields(SHAPE, (6,))
    strategy.buffer = ReferenceBuffer(capacity, "class_balanced", "uniform", fields, 6, seed, CPU, Comm())
    strategy.before_task(stage, None)
    return strategy


def stored(pixels, labels, logits, drawn=None) -> Records:
    columns = batch(pixels, labels, [label // 2 for label in labels]).columns
    drawn = torch.zeros(len(labels), dtype=torch.int64) if drawn is None else torch.tensor(drawn)
    columns |= {"logits": torch.tensor(logits), "drawn": drawn}
    return Records(columns, torch.ones(len(labels)), torch.arange(len(labels)))


def answers(pixels) -> list[list[float]]:
    return (torch.tensor(pixels) / 255 @ torch.tensor(ROWS).T).tolist()


def mean_of_positive(values) -> float:
    positive = [value for value in values if value > 0]
    return sum(positive) / len(positive) if positive else 0.0


def test_the_loss_of_the_second_of_three_tasks():
    new = [[255, 0], [0, 255], [200, 255]]
    labels, old, old_labels = [2, 3, 3], [[255, 255], [0, 255]], [0, 1]
    targets = [[2.0, 0.0, 0.1, 0.0, 0.3, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.7]]
    first, second = stored(old[:1], old_labels[:1], targets[:1]), stored(old[1:], old_labels[1:], targets[1:])
    f, g = answers(new), answers(old)
    own = sum(cross_entropy(z[2:4], label - 2) for z, label in zip(f, labels)) / 3
    distance = sum((a - b) ** 2 for a, b in zip(g[0], targets[0])) / 6
    of_labels = cross_entropy(g[1][:2], old_labels[1])
    shares = [[math.exp(value) / sum(map(math.exp, z[:4])) for value in z[:4]] for z in f]
    past = mean_of_positive([max(p[:2]) + 0.3 - max(p[2:]) for p in shares])
    heads = [(z, 1) for z in f] + [(z, 0) for z in g]
    excess = [max(z[4:]) + 0.3 - max(z[2 * task : 2 * task + 2]) for z, task in heads]
    assert past > 0 and min(excess) < 0 < max(excess)
    expected = own + 0.5 * distance + 0.7 * of_labels + 2.0 * (past + mean_of_positive(excess))
    strategy = begun(xder(1, alpha=0.5, beta=0.7, eta=2.0, margin=0.3), stage=1)
    loss = strategy.loss(batch(new, labels, [1] * 3), [first, second])
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_first_task_has_no_past_and_the_last_no_future():
    new, z = batch([[255, 0], [0, 255]], [0, 1]), answers([[255, 0], [0, 255]])
    future = mean_of_positive([max(logits[2:]) + 0.3 - max(logits[:2]) for logits in z])
    assert future > 0
    expected = (cross_entropy(z[0][:2], 0) + cross_entropy(z[1][:2], 1)) / 2 + 2 * future
    first = begun(xder(1, eta=2.0)).loss(new, [])
    assert first.item() == pytest.approx(expected, abs=1e-6)
    last = begun(xder(1, eta=0.0), stage=2).loss(batch([[255, 0]], [4], [2]), [])
    assert last.item() == pytest.approx(cross_entropy(z[0][4:], 0), abs=1e-6)


def test_the_hinge_of_the_past_lifts_the_present_and_leaves_the_past_target_alone():
    strategy = begun(xder(1, margin=0.3), stage=1)
    logits = torch.zeros(1, 6, requires_grad=True)
    strategy.past_hinge(logits).backward()  # four equal probabilities: 1/4 + 0.3 - 1/4, the first detached
    lifted = logits.grad[0, 2:4].sum()  # the maximum shares its gradient among equals
    assert lifted < 0 and torch.allclose(logits.grad[0, :2], torch.full((2,), 1 / 16))
    assert not logits.grad[0, 4:].any()


def test_outputs_of_later_tasks_are_prepared_by_contrasting_two_views():
    new, labels = [[255, 0], [0, 255], [200, 255]], [0, 1, 1]
    both = answers(new) * 2  # without augmentation the views are equal
    heads = []
    for outputs in TASKS[1:]:
        z = [[row[place] for place in outputs] for row in both]
        z = [[value / math.hypot(*row) for value in row] for row in z]
        similar = [[sum(a * b for a, b in zip(one, other)) / 0.7 for other in z] for one in z]
        losses = []
        for i, row in enumerate(similar):
            others = [j for j in range(6) if j != i]
            positive = [j for j in others if labels[j % 3] == labels[i % 3]]
            total = math.log(sum(math.exp(row[j]) for j in others))
            losses.append(-sum(row[j] - total for j in positive) / len(positive))
        heads.append(sum(losses) / 6)
    rows = batch(new, labels)
    without = begun(xder(1)).loss(rows, [])
    with_it = begun(xder(1, lambda_=0.3, temperature=0.7)).loss(rows, [])
    assert (with_it - without).item() == pytest.approx(0.3 * sum(heads) / 2, abs=1e-6)


def test_the_second_view_leaves_the_statistics_of_batch_norm():
    strategy = begun(xder(1, lambda_=0.3))
    norm = nn.BatchNorm1d(2)
    strategy.model.insert(1, norm)
    strategy.loss(batch([[255, 0], [0, 100]], [0, 1]), [])
    mean = torch.tensor([255 / 2, 50]) / 255
    assert norm.num_batches_tracked == 1 and torch.allclose(norm.running_mean, 0.1 * mean)
    assert norm.track_running_stats


def test_hinges_are_means_over_what_violates_them():
    assert violation(torch.tensor([-1.0, 0.5, 0.25])).item() == pytest.approx(0.375)
    assert violation(torch.tensor([-1.0, -0.5])).item() == 0


def test_implanted_logits_stay_below_that_of_the_true_class():
    old = torch.tensor([[2.0, 1.0, 7.0, 8.0], [1.0, 4.0, 7.0, 8.0], [-1.0, 0.5, 7.0, 8.0]])
    now = torch.tensor([[9.0, 9.0, 4.0, -2.0], [9.0, 9.0, 1.5, 3.0], [9.0, 9.0, 1.0, 1.0]])
    found = implanted(old, now, torch.tensor([0, 1, 0]), torch.tensor([False, False, True, True]), 0.8)
    # the largest is 4, above 0.8 * 2: times 0.4; 3 is below 0.8 * 4; the true logit -1 gives no scale
    expected = [[2.0, 1.0, 1.6, -0.8], [1.0, 4.0, 1.5, 3.0], [-1.0, 0.5, 7.0, 8.0]]
    assert torch.allclose(found, torch.tensor(expected))
    assert torch.equal(implanted(old, now, torch.tensor([0, 1, 0]), torch.zeros(4, dtype=torch.bool), 0.8), old)


def task(number: int):
    pixels = [[60 + 20 * i, 255 - 7 * i - 50 * number] for i in range(10)]
    return batch(pixels, [2 * number + i % 2 for i in range(10)], [number] * 10)


def test_records_are_revised_when_drawn_and_ever_more_rarely():
    strategy = begun(xder(6))
    strategy.after_task(0, task(0))
    strategy.before_task(1, task(1))
    count = len(strategy.buffer)
    drawn, revised = dict.fromkeys(range(10), 0), 0
    for step in range(4):
        draws = strategy.recall()
        strategy.model[1].weight.data = torch.tensor(ROWS) * (1.1 + 0.1 * step)
        strategy.loss(batch([[9, 9]], [2], [1]), draws)
        before = dict(zip(strategy.buffer.ids, strategy.buffer.columns["logits"].clone()))
        torch.manual_seed(step)
        strategy.exchange([])
        after = dict(zip(strategy.buffer.ids, strategy.buffer.columns["logits"]))
        ids = sorted({id_ for draw in draws for id_ in draw.ids.tolist()})
        assert len(ids) < 12  # some were in both draws
        torch.manual_seed(step)
        for id_, chance in zip(ids, torch.rand(len(ids)).tolist()):
            drawn[id_] += 1
            due = chance < 1 / drawn[id_]
            revised += due
            assert torch.equal(after[id_], before[id_]) != due
            assert torch.equal(after[id_][:2], before[id_][:2])  # of the record's own task
        assert all(torch.equal(after[id_], before[id_]) for id_ in set(range(10)) - set(ids))
        assert dict(zip(strategy.buffer.ids[:count], strategy.buffer.columns["drawn"].tolist())) == drawn
    assert 10 <= revised < sum(drawn.values()) and not strategy.answers


def revise(row: list[float], answer: list[float], places, label: int) -> None:
    """Some logits of a record set to those of an answer, below 0.8 times that of its class."""
    largest, limit = max((answer[place] for place in places), default=0), 0.8 * row[label]
    for place in places if limit > 0 else ():
        row[place] = answer[place] * (limit / largest if largest > limit else 1)


def test_the_memory_after_each_task():
    strategy = begun(xder(2, gamma=0.8), capacity=12)
    expected, scaled = {}, 0
    for stage, sizes in enumerate([{0: 5, 1: 5}, {0: 3, 1: 3, 2: 3, 3: 3}, dict.fromkeys(range(6), 2)]):
        strategy.before_task(stage, task(stage))
        weights = [[value * (1 + stage) for value in row] for row in ROWS]
        strategy.model[1].weight.data = torch.tensor(weights)
        strategy.after_task(stage, task(stage))
        content = {name: column[: len(strategy.buffer)] for name, column in strategy.buffer.columns.items()}
        labels, pixels = content["y"].tolist(), content["x"].flatten(1).tolist()
        assert {label: labels.count(label) for label in labels} == sizes and not content["drawn"].any()
        for place, (label, (a, b)) in enumerate(zip(labels, pixels)):
            answer = [(a * first + b * second) / 255 for first, second in weights]
            new = (a, b) not in expected
            row = expected.setdefault((a, b), list(answer))
            revise(row, answer, range(0, 2 * stage) if new else range(2 * stage, 6), label)
            scaled += row != answer
            assert content["logits"][place].tolist() == pytest.approx(row, abs=1e-5)
    assert scaled > 5


def test_the_memory_needs_room_and_classes_of_equal_parts():
    class Scenario:
        concatenate = False

    with pytest.raises(ValueError, match="buffer.insertion=class_balanced, got reservoir"):
        xder(2).check(Scenario, {"insertion": "reservoir"})
    Scenario.concatenate = True
    with pytest.raises(ValueError, match="set scenario.concatenate=false"):
        xder(2).check(Scenario, {"insertion": "class_balanced"})
    with pytest.raises(ValueError, match="buffer.capacity=5 is too small for 6 classes"):
        begun(xder(2), capacity=5)
