"""Streams are seen once, in their order, and `one_pass` refuses what would show a sample again."""

import json

import pytest
import torch
from support import QUICK

from cl.data.loader import epoch_batches
from cl.data.rows import Rows
from cl.run.experiment import run
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.strategies.base import Strategy


@pytest.fixture
def batches(monkeypatch):
    """The pictures of each step's new samples."""
    found, observe = [], Strategy.observe

    def watched(self, batch):
        found.append(batch["x"].flatten(1).clone())
        return observe(self, batch)

    monkeypatch.setattr(Strategy, "observe", watched)
    return found


def pictures(compose_config, *options) -> torch.Tensor:
    """The training pictures of a scenario in its order."""
    from cl.run.session import Session

    with Session(make_plan(plain(compose_config(*options)))) as session:
        tasks, _ = session.load_tasks()
        return tasks.training(range(len(tasks)))["x"].flatten(1)


GAUSSIAN = (*QUICK, "scenario=gaussian10", "buffer.capacity=30")


@pytest.mark.parametrize("strategy", ["finetune", "er"])
def test_a_stream_is_trained_on_in_its_order_and_once(compose_config, batches, strategy):
    options = (*GAUSSIAN, f"strategy={strategy}", "eval_every=7")
    content = json.loads((run(compose_config(*options)) / "results.json").read_text())
    assert torch.equal(torch.cat(batches), pictures(compose_config, *options)) and content["one_pass"]


@pytest.mark.parametrize("strategy", ["joint", "scratch"])
def test_upper_bounds_shuffle_what_they_join(compose_config, batches, strategy):
    options = (*GAUSSIAN, f"strategy={strategy}", "scenario.num_tasks=2")
    run(compose_config(*options))
    stream = pictures(compose_config, *options)
    trained = torch.cat(batches)[-len(stream) :]
    assert not torch.equal(trained, stream)
    assert sorted(map(bytes, trained.byte().numpy())) == sorted(map(bytes, stream.byte().numpy()))


@pytest.mark.parametrize("count, ranks, size", [(100, 2, 10), (103, 2, 10), (47, 3, 4), (5, 4, 2)])
def test_ranks_share_out_each_step_of_a_stream(count, ranks, size):
    rows = Rows({"x": torch.arange(count).view(-1, 1), "y": torch.arange(count), "task": torch.zeros(count)})
    every = [list(epoch_batches(rows, size, 0, 0, 0, rank, ranks, ordered=True)) for rank in range(ranks)]
    alone = list(epoch_batches(rows, size * ranks, 0, 0, 0, ordered=True))
    for step, batch in enumerate(alone):
        parts = [steps[step] for steps in every]
        shared = torch.cat([part.y for part in parts if part.loss_weight])
        assert sorted(shared.tolist()) == batch.y.tolist()
    assert torch.cat([batch.y for batch in alone]).tolist() == list(range(count))
    rest = list(epoch_batches(rows, size, 0, 0, 0, 0, ranks, first=1, ordered=True))
    assert all(torch.equal(one.y, other.y) for one, other in zip(rest, every[0][1:], strict=True))


@pytest.mark.parametrize("options, message", [
    (("scenario=gaussian10", "epochs=5"), "scenario=gaussian10 is a stream that is seen once.*got epochs=5"),
    (("scenario=gaussian10", "epochs=1", "steps=10"), "leave out steps .*got steps=10"),
    (("one_pass=true", "epochs=2"), "one_pass=true lets each sample be new once: set epochs=1 .*got epochs=2"),
    (("one_pass=true", "epochs=0.5"), "got epochs=0.5"),
    (("one_pass=true", "epochs=1", "strategy=scratch"), "got strategy=scratch, which trains on data of earlier tasks"),
    (("one_pass=true", "epochs=1", "scenario.concatenate=true"), "and scenario.concatenate, got strategy=derpp"),
    (("scenario=gaussian10", "strategy=agem", "epochs=1"), "has to be told when a task ends"),
    (("one_pass=true", "epochs=1"), None),
    (("+experiment=online", "strategy=joint"), None),
    (("+experiment=[split_mnist,online]", "dataset=digits", "strategy=er"), None),
    (("scenario=gaussian10", "epochs=5", "strategy=joint"), None),
    (("scenario=gaussian10", "epochs=5", "strategy=gdumb"), None),
], ids=lambda value: "-".join(value) if isinstance(value, tuple) else "")  # fmt: skip
def test_what_would_show_a_sample_again_is_refused(compose_config, options, message):
    config = plain(compose_config(*options))
    if message is None:
        make_plan(config)
        return
    with pytest.raises(ValueError, match=message):
        make_plan(config)
