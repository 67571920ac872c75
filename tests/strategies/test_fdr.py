"""FDR: the distance of predictions, and the outputs that records are given when their task is over."""

import math

import pytest
import torch
from toys import NEW, NEW_LOSS, linear, ready, records, samples

from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.fdr import Fdr

STAGES = [[0], [1]]
TASK = samples([[10 * i, 200 - 9 * i] for i in range(20)], [0, 1] * 10)


def softmax(logits) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def distance(some, others) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(some, others)))


DRAW = records([[255, 0], [0, 0]], [1, 0], [[0.0, 2.0], [1.0, 0.0]])  # logits (1, 0) and (0, 0)


def test_the_loss_adds_the_mean_distance_of_the_predictions():
    strategy = ready(Fdr(2, alpha=0.5))
    first = distance(softmax((1, 0)), softmax((0, 2)))
    second = distance(softmax((0, 0)), softmax((1, 0)))
    assert strategy.loss(NEW, [DRAW]).item() == pytest.approx(NEW_LOSS + 0.5 * (first + second) / 2, abs=1e-6)
    assert strategy.loss(NEW, []).item() == pytest.approx(NEW_LOSS, abs=1e-6)


def test_the_distance_of_outputs_is_that_of_the_logits():
    strategy = ready(Fdr(2, alpha=2.0, distance="outputs"))
    expected = NEW_LOSS + 2 * (math.sqrt(1 + 4) + 1) / 2
    assert strategy.loss(NEW, [DRAW]).item() == pytest.approx(expected, abs=1e-6)


def test_a_record_that_gives_what_was_stored_has_a_gradient_of_zero():
    strategy = ready(Fdr(2, alpha=0.5))
    strategy.loss(NEW, [records([[255, 0]], [0], [[1.0, 0.0]])]).backward()
    found = strategy.model[1].weight.grad.clone()
    strategy.model.zero_grad()
    strategy.loss(NEW, []).backward()
    assert torch.equal(found, strategy.model[1].weight.grad)


def test_where_the_task_is_known_the_predictions_are_over_its_classes():
    outputs = TaskOutputs(2, [range(0, 1), range(1, 2)], task_aware=True)
    strategy = ready(Fdr(2), outputs=outputs)  # of one class each: every prediction is 1
    assert strategy.compared(torch.tensor([[3.0, -1.0]]), {"task": torch.tensor([1])}).tolist() == [[0.0, 1.0]]


def all_of(strategy) -> dict[tuple, list[float]]:
    """The stored logits by task and pixels."""
    strategy.buffer.request(100)
    while strategy.buffer.pending:
        draw = strategy.buffer.receive()
    keys = zip(draw["task"].tolist(), map(tuple, draw["x"].flatten(1).tolist()))
    return dict(zip(keys, draw["logits"].tolist()))


def test_records_have_the_outputs_of_the_end_of_their_own_task():
    strategy = ready(Fdr(4), capacity=16, stages=STAGES)
    strategy.before_task(0, TASK)
    strategy.observe(NEW)
    assert len(strategy.buffer) == 0  # nothing is stored before the end
    strategy.after_task(0, TASK)
    first = all_of(strategy)
    assert len(first) == 16
    for (_, pixels), logits in first.items():
        assert logits == pytest.approx([value / 255 for value in pixels])
    second = samples(TASK.x.flatten(1).tolist(), TASK.y.tolist(), task=1)
    strategy.before_task(1, second)
    with torch.no_grad():
        strategy.model[1].weight *= 2
    strategy.after_task(1, second)
    found = all_of(strategy)
    assert {task for task, _ in found} == {0, 1} and len(found) == 16
    for (task, pixels), logits in found.items():
        assert logits == pytest.approx([(1 + task) * value / 255 for value in pixels])
    assert strategy.model.training


def test_replay_begins_with_the_first_step_after_the_first_task():
    strategy = ready(Fdr(4), linear(), capacity=16, stages=STAGES)
    strategy.before_task(0, TASK)
    strategy.observe(NEW)
    strategy.observe(NEW)
    strategy.after_task(0, TASK)
    assert strategy.take_replayed() == 0
    strategy.before_task(1, TASK)
    strategy.observe(NEW)
    assert strategy.take_replayed() == 4


def test_a_scenario_with_targets_needs_the_distance_of_outputs(compose_config):
    words = ("strategy=fdr", "dataset=ptycho_synthetic", "scenario=reconstruction", "backbone=ptychonn")
    with pytest.raises(ValueError, match="set strategy.distance=outputs"):
        make_plan(plain(compose_config(*words)))
    make_plan(plain(compose_config(*words, "strategy.distance=outputs")))


@pytest.mark.parametrize("capacity, rate", [(200, 0.03), (500, 0.1), (5120, 0.1)])
def test_the_experiment_has_the_published_options(compose_config, capacity, rate):
    config = compose_config("+experiment=split_mnist_fdr", f"buffer.capacity={capacity}")
    assert (config.optimizer.lr, config.batch_size, config.strategy.replay_batch_size) == (rate, 128, 128)
