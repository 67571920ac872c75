"""When replay begins, how large draws are, and how the memory is filled."""

import pytest
import torch
from toys import CPU, batch, ready, samples

from cl.distributed.comm import Comm
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er

TASK = samples([[i, 0] for i in range(30)], [0] * 20 + [1] * 10)
STAGES = [[0], [1], [2]]


def lengths(strategy) -> list[int]:
    draws = strategy.recall()
    for size in strategy.draw_sizes:
        strategy.buffer.request(size)
    return [len(draw) for draw in draws]


def test_draws_of_derpp_have_sizes_of_their_own_and_begin_with_tasks_of_their_own():
    strategy = ready(
        Derpp(5, 0.5, 0.5, distillation_batch_size=3, replay_from=2, distill_from=3), capacity=20, stages=STAGES
    )
    found = []
    for stage in range(3):
        strategy.before_task(stage, TASK)
        found += [lengths(strategy), lengths(strategy)] if stage else []
        strategy.observe(batch([[stage, i] for i in range(10)], [0] * 10))
        strategy.after_task(stage, TASK)
    # from the first step of the task on
    assert found == [[0, 5], [0, 5], [3, 5], [3, 5]]


def test_nothing_is_replayed_before_the_task_that_is_said():
    plain = ready(Er(4, replay_from=2), capacity=20, stages=STAGES)
    plain.before_task(0, TASK)
    for _ in range(3):
        plain.observe(batch([[1, 2]] * 5, [0] * 5))
    assert plain.take_replayed() == 0 and len(plain.buffer) == 15
    plain.before_task(1, TASK)
    plain.observe(batch([[1, 2]] * 5, [0] * 5))
    assert plain.take_replayed() == 4


def test_filling_at_the_end_of_a_task_keeps_its_share_of_each_class():
    strategy = ready(Er(64, filling="task_end"), capacity=27, stages=STAGES)
    for stage in range(3):
        strategy.before_task(stage, TASK)
        strategy.observe(batch([[1, 2]] * 5, [0] * 5))
        strategy.after_task(stage, samples(TASK.x.flatten(1).tolist(), TASK.y.tolist(), task=stage))
    (draw,) = strategy.recall()
    assert len(draw) == 27
    for stage in range(3):
        own = draw["task"] == stage
        assert draw["y"][own].bincount().tolist() == [5, 4]
        assert len(draw["x"][own].flatten(1).unique(dim=0)) == 9  # no sample twice
    chosen = [sorted(draw["x"][draw["task"] == stage].flatten(1)[:, 0].tolist()) for stage in range(3)]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_what_is_stored_at_the_end_of_a_task(size):
    class Rank(Comm):
        def __init__(self, rank):
            self.rank, self.size = rank, size

    kept = []
    for stage in range(3):
        parts = []
        for rank in range(size):
            strategy = ready(Er(4, filling="task_end"), capacity=12, stages=STAGES)
            strategy.updater.comm = Rank(rank)
            parts.append(strategy.chosen(stage, TASK)["x"].flatten(1)[:, 0].tolist())
        alone = ready(Er(4, filling="task_end"), capacity=12, stages=STAGES)
        assert sorted(sum(parts, [])) == sorted(alone.chosen(stage, TASK)["x"].flatten(1)[:, 0].tolist())
        kept.append([len(part) for part in parts])
    # no rank gets more than fits into its part of the memory
    for rank in range(size):
        assert sum(counts[rank] for counts in kept) <= -(-12 // size)


def test_a_memory_too_small_for_all_tasks_is_refused():
    with pytest.raises(ValueError, match="buffer.capacity=2 is too small"):
        ready(Er(4, filling="task_end"), capacity=2, stages=STAGES)


def test_filling_does_not_depend_on_the_device_or_on_global_generators():
    first, again = (
        ready(Er(4, filling="task_end"), capacity=12, stages=STAGES).chosen(1, TASK.to(CPU))["x"] for _ in range(2)
    )
    torch.manual_seed(9)
    assert torch.equal(first, again)
