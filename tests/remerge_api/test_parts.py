"""A scenario, the memory and a strategy by themselves."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import remerge


def test_tasks_hold_all_digits_once():
    tasks = remerge.scenario("scenario=class5", seed=0)
    assert len(tasks) == 5 and tasks.num_outputs == 10 and [task.classes for task in tasks][0] == [0, 1]
    pixels, _ = load_digits(return_X_y=True)
    total = sum(len(task.train) + len(task.test) for task in tasks)
    assert total == len(pixels)
    x, y = tasks[0].train[0]
    assert x.dtype == torch.float32 and x.shape == tasks.sample_shape and int(y) in (0, 1)
    assert len(tasks[1:3]) == 2
    with pytest.raises(IndexError):
        tasks[5]


def test_a_loader_of_torch_gives_each_sample_once():
    task = remerge.scenario("scenario=class5", seed=0)[2]
    batches = list(torch.utils.data.DataLoader(task.train, batch_size=64, shuffle=True))
    labels = torch.cat([y for _, y in batches])
    assert sorted(labels.tolist()) == sorted(task.rows["y"].tolist())
    one_by_one = torch.stack([task.train[place][0] for place in range(5)])
    assert torch.equal(one_by_one, torch.stack([x for x, _ in task.train.__getitems__(list(range(5)))]))


def test_batches_are_those_of_a_run():
    with remerge.Learner("strategy=finetune", "scenario=class5", seed=3, epochs=1) as learner:
        of_run = []
        for batch in learner.batches(0):
            of_run.append(batch["y"].tolist())
            learner.step(batch)
    task = remerge.scenario("scenario=class5", seed=3)[0]
    assert [y.tolist() for _, y in task.batches()] == of_run


@pytest.mark.parametrize("kind", ["native", "reference"])
def test_a_reservoir_keeps_every_sample_with_equal_probability(kind):
    # 400 memories of 10 out of 40: each sample is kept 100 +- 8.7 times; 5 of its deviations: error rate 3e-5 in all.
    kept = np.zeros(40)
    for seed in range(400):
        buffer = remerge.ReplayBuffer(10, seed=seed, num_classes=2, kind=kind)
        for first in range(0, 40, 8):
            y = torch.zeros(8, dtype=torch.int64)
            buffer.add(x=torch.arange(first, first + 8, dtype=torch.float32)[:, None], y=y)
        drawn = buffer.sample(100)["x"][:, 0].long()
        assert len(buffer) == len(drawn) == len(set(drawn.tolist())) == 10
        kept[drawn.numpy()] += 1
        buffer.close()
    assert np.abs(kept - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_a_memory_takes_any_fields_and_updates_them():
    buffer = remerge.ReplayBuffer(8, insertion="class_balanced", num_classes=3)
    assert len(buffer.sample(4)) == 0 and len(buffer) == 0 and buffer.nbytes == 0
    buffer.add(x=torch.rand(6, 3, 4, 4), y=torch.tensor([0, 1, 2, 0, 1, 2]), logits=torch.zeros(6, 3))
    records = buffer.sample(6)
    assert set(records.columns) == {"x", "y", "logits"}
    buffer.update("logits", records.ids, torch.ones(6, 3))
    assert buffer.sample(6)["logits"].eq(1).all()
    with pytest.raises(ValueError, match="labels must lie in|label"):
        buffer.add(x=torch.rand(1, 3, 4, 4), y=torch.tensor([3]), logits=torch.zeros(1, 3))
    buffer.close()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": 5, "insertion": "reservior"}, "did you mean reservoir"),
        ({"capacity": 5, "candidates": 3}, "belongs to"),
        ({"capacity": 5, "kind": "nativ"}, "native"),
        ({"capacity": 5, "nonsense": 3}, "nonsense"),
    ],
)
def test_mistakes_of_a_memory_are_one_line(options, said):
    with pytest.raises(ValueError, match=said):
        remerge.ReplayBuffer(**options)
    with pytest.raises(ValueError, match="needs a field y"):
        remerge.ReplayBuffer(5).add(x=torch.rand(2, 1))


@pytest.mark.parametrize("strategy", ["er", "derpp", "ewc", "gdumb", "icarl", "joint"])
def test_a_strategy_by_hand_has_the_numbers_of_a_run(strategy, tmp_path):
    values = {"seed": 0, "epochs": 1, "backbone.hidden": [16]}
    words = (f"strategy={strategy}", "scenario=class2", "ema=null" if strategy == "icarl" else "ema=0.9")
    with remerge.Learner(*words, **values) as learner:
        for stage in range(len(learner.stages)):
            for batch in learner.batches(stage):
                loss = learner.step(batch)
            learner.finish()
        matrix = learner.accuracy_matrix
    assert torch.isfinite(loss)
    run = remerge.run(*words, **values, output=tmp_path, progress=False, pictures=[])
    assert matrix.tolist() == run.results["accuracy_matrix"]


def test_stages_of_a_learner_come_in_order():
    with remerge.Learner("strategy=er", "scenario=class2", seed=0, epochs=1) as learner:
        with pytest.raises(ValueError, match="stage 1 cannot begin: stage 0 is next"):
            learner.batches(1)
        with pytest.raises(ValueError, match="no stage has begun"):
            learner.finish()
        batches = learner.batches(0)
        learner.step(next(batches))
        next(batches)
        with pytest.raises(ValueError, match="each batch is for one step"):
            next(batches)
        with pytest.raises(ValueError, match="step takes the batches of learner.batches"):
            learner.step((torch.zeros(1), torch.zeros(1)))
        with pytest.raises(ValueError, match="finish"):
            learner.batches(0)
    learner.close()
    with pytest.raises(ValueError, match="independent|merge"):
        remerge.Learner("strategy=independent", "strategy.init=merged")
