"""The step around the loss: gradient accumulation, clipping, precision, rate scaling, shares of ranks."""

import copy

import pytest
import torch
from torch import nn

from cl.data.loader import epoch_batches, num_batches
from cl.data.rows import Rows
from cl.distributed.comm import Comm, ReduceOptions
from cl.run import experiment
from cl.run.folder import plain, run_folder
from cl.run.recipe import Recipe
from cl.step.updater import Updater

CPU = torch.device("cpu")


def samples(count: int) -> Rows:
    x = torch.arange(count).remainder(256).to(torch.uint8).view(-1, 1, 1, 1)
    return Rows({"x": x, "y": torch.arange(count), "task": torch.zeros(count, dtype=torch.int64)})


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 24, 25, 29, 97])
def test_ranks_share_every_sample_once_and_make_as_many_steps(count, ranks):
    data = samples(count)
    per_rank = [list(epoch_batches(data, 4, 0, 1, 2, rank, ranks)) for rank in range(ranks)]
    assert {len(batches) for batches in per_rank} == {num_batches(count, 4, ranks)}
    seen = [label for batches in per_rank for batch in batches if batch.loss_weight for label in batch.y.tolist()]
    assert sorted(seen) == list(range(count))
    for step in zip(*per_rank):  # the mean over ranks of the weighed means is the mean over all samples of the step
        local = [batch.loss_weight * batch.y.double().mean().item() for batch in step]
        everything = torch.cat([batch.y for batch in step if batch.loss_weight]).double()
        assert sum(local) / ranks == pytest.approx(everything.mean().item())


def test_steps_of_ranks_hold_the_samples_of_the_steps_of_one():
    data = samples(50)
    alone = [sorted(batch.y.tolist()) for batch in epoch_batches(data, 8, 0, 0, 0)]
    ranks = [list(epoch_batches(data, 4, 0, 0, 0, rank, 2)) for rank in range(2)]
    assert [sorted(a.y.tolist() + b.y.tolist()) for a, b in zip(*ranks)] == alone


@pytest.mark.parametrize("length, count", [(8, 2), (7, 2), (5, 3), (2, 2)])
def test_weighed_means_of_the_passes_add_up_to_the_mean_of_the_step(length, count):
    values = torch.rand(length)
    parts = Rows({"y": torch.arange(length)}, loss_weight=0.5).split(count)
    assert torch.cat([part.y for part in parts]).tolist() == list(range(length))
    total = sum(part.weighted(values[part.y].mean()) for part in parts)
    assert total.item() == pytest.approx(0.5 * values.mean().item())


@pytest.mark.parametrize("strategy", ["finetune", "er", "derpp"])
def test_two_passes_of_ten_equal_one_of_twenty(compose_config, strategy):
    weights = []
    for batch_size, accumulation_steps in ((20, 1), (10, 2)):
        config = compose_config(
            f"strategy={strategy}", "scenario=class2", "epochs=1", "progress=false", "pictures=[]",
            f"batch_size={batch_size}", f"gradient_accumulation_steps={accumulation_steps}",
        )  # fmt: skip
        experiment.run(config)
        weights.append(torch.load(run_folder(plain(config)) / "task_01.pt")["model"])
    for name in weights[0]:
        assert torch.allclose(weights[0][name], weights[1][name], rtol=0, atol=5e-6), name


def updater(model, **options) -> Updater:
    return Updater(torch.optim.SGD(model.parameters(), lr=1.0), model, CPU, Comm(), ReduceOptions(), **options)


@pytest.mark.parametrize("clip_norm, moved", [(None, 5.0), (1.0, 1.0), (10.0, 5.0)])
def test_the_gradient_is_clipped_to_its_norm(clip_norm, moved):
    model = nn.Linear(2, 1, bias=False)
    before = copy.deepcopy(model.weight.data)
    step = updater(model, clip_norm=clip_norm)
    step.clear()
    step.backward(model(torch.tensor([[3.0, 4.0]])).sum())
    step.reduce()
    step.step()
    assert (before - model.weight.data).norm().item() == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize(
    "precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_forward_pass_runs_in_the_precision_asked_for(precision, dtype):
    model = nn.Linear(4, 3)
    step = updater(model, precision=precision)
    with step.autocast():
        logits = model(torch.randn(2, 4))
    assert logits.dtype is dtype
    step.clear()
    step.backward(logits.float().square().mean())
    step.reduce()
    exact = torch.autograd.grad(model(torch.zeros(2, 4)).square().mean(), model.bias)[0]
    assert model.bias.grad.dtype is torch.float32 and model.bias.grad.norm() < 100 * (exact.norm() + 1)  # unscaled
    step.step()


@pytest.mark.parametrize("policy, factor", [("none", 1.0), ("linear", 8.0), ("sqrt", 8**0.5)])
def test_the_learning_rate_is_scaled_by_an_explicit_policy_and_warmed_up_from_one(compose_config, policy, factor):
    words = ("optimizer=sgd", "optimizer.lr=0.5", "schedule=constant", "schedule.warmup=0.5")
    config = plain(compose_config(*words, f"lr_scaling={policy}", "gradient_accumulation_steps=8"))
    recipe = Recipe(config, Comm(), CPU)
    optimizer, schedule = recipe.updater(nn.Linear(1, 1)).optimizer, recipe.schedule
    rate = optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(0.5 * factor)
    # Goyal et al. 2017: from the rate of one rank to that of all; unscaled, from 0 as ever
    start, middle, end = (rate * schedule.factor(progress) for progress in (0.0, 0.25, 0.5))
    first = 0.5 if policy != "none" else 0.0
    assert (start, middle, end) == pytest.approx((first, (first + rate) / 2, rate))


@pytest.mark.parametrize("options, word", [({"precision": "fp8"}, "precision=fp8"), ({"clip_norm": 0}, "clip_norm")])
def test_options_of_the_step_that_make_no_sense_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        updater(nn.Linear(1, 1), **options)
