"""GSS: cosines of gradients, what algorithm 2 lets into the memory, and ranks that decide alike."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exemplar_toys import OUTPUTS, network, task
from torch import nn
from toys import NEW, batch, cross_entropy, ready, samples

from cl.distributed.comm import Comm
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.gradients import cosines
from cl.strategies.gss import Gss


def convolutional() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()


def fully_connected() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Flatten(), nn.Linear(16, 5), nn.ReLU(inplace=True), nn.Linear(5, 4, bias=False), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("make", [fully_connected, convolutional])
@pytest.mark.parametrize("frozen", [False, True])
def test_cosines_are_those_of_the_gradients_of_single_samples(make, frozen):
    model, known = make(), 3
    if frozen:
        list(model.parameters())[0].requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    outputs = TaskOutputs(3, [range(0, 2), range(2, 3)], task_aware=False)
    directions, gradients = [], []
    for image, label in zip(x, y):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]))
        directions.append(gradients[-1] / gradients[-1].norm())
    expected = torch.stack(directions[known:]) @ torch.stack(directions[:known]).T
    found, together = cosines(model, weights, outputs.for_training, x, y, torch.zeros(8, dtype=torch.int64), known)
    assert found.shape == (5, 3) and torch.allclose(found, expected, atol=1e-5)
    mean = torch.stack(gradients[known:]).mean(0)
    assert torch.allclose(together, torch.stack(directions[:known]) @ mean / mean.norm(), atol=1e-5)


def test_where_the_task_is_known_other_classes_have_no_part_in_the_gradients():
    model, outputs = fully_connected(), TaskOutputs(3, [range(0, 2), range(2, 3)], task_aware=True)
    x, y, tasks = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.int64)
    found = cosines(model, list(model.parameters()), outputs.for_training, x, y, tasks, 1)
    with torch.no_grad():
        model[5].weight[2] += 5.0
        model[5].bias[2] -= 3.0
    again = cosines(model, list(model.parameters()), outputs.for_training, x, y, tasks, 1)
    assert all(map(torch.equal, found, again))


def gss(capacity=4, **options) -> Gss:
    return ready(Gss(options.pop("replay_batch_size", 2), **options), capacity=capacity)


def test_new_and_replayed_samples_are_trained_on_together():
    strategy = gss()
    assert strategy.recall() == []
    strategy.observe(NEW)
    (draw,) = strategy.recall()
    assert sorted(draw.x.flatten(1).tolist()) == sorted(NEW.x.flatten(1).tolist())
    loss = strategy.loss(batch([[0, 0]], [0]), [batch([[255, 0], [0, 255]], [1, 1])])
    expected = (cross_entropy((0, 0), 0) + cross_entropy((1, 0), 1) + cross_entropy((0, 1), 1)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_score_is_one_more_than_the_largest_cosine():
    strategy = gss(capacity=6)
    assert strategy.scores_of(NEW)[0].tolist() == [1.0, 1.0]
    strategy.observe(NEW)
    others = samples([[255, 255], [0, 9], [80, 10]], [1, 0, 1])
    directions = []
    for rows in (NEW, others):
        for image, label in zip(rows.x, rows.y):
            weight = strategy.model[1].weight
            (gradient,) = torch.autograd.grad(F.cross_entropy(strategy.model(image / 255), label[None]), weight)
            directions.append(gradient.flatten() / gradient.norm())
    expected = [1 + max((new @ old).item() for old in directions[:2]) for new in directions[2:]]
    scores, admitted = strategy.scores_of(others)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert admitted.tolist() == [score < 1 for score in expected] and min(expected) < 1 < max(expected)


def test_the_gate_of_the_batch_is_the_score_of_its_mean_gradient():
    strategy = gss(capacity=6, gate="batch")
    strategy.observe(batch([[255, 0]], [0]))
    like, unlike = [[255, 9], [80, 10]], [[255, 3], [230, 0]]
    assert strategy.scores_of(samples(like, [0, 0]))[1].tolist() == [False, False]
    assert strategy.scores_of(samples(unlike, [1, 1]))[1].tolist() == [True, True]
    mixed = samples([[255, 0], [255, 0]], [1, 0])  # the first one's gradient is the longer one
    assert strategy.scores_of(mixed)[0].tolist() == pytest.approx([0, 2], abs=1e-5)
    assert strategy.scores_of(mixed)[1].tolist() == [True, True]


def filled(scores) -> Gss:
    strategy = gss(capacity=len(scores))
    rows = samples([[i, 0] for i in range(len(scores))], [0] * len(scores))
    found = torch.tensor(scores, dtype=torch.float64)
    strategy.offer(rows.columns, found, found < 1, np.random.default_rng(0))
    return strategy


def test_while_there_is_room_every_sample_is_stored_and_then_only_those_that_are_admitted():
    strategy = filled([1.5, 0.5, 1.9])
    assert strategy.stored == 3 and strategy.scores.tolist() == [1.5, 0.5, 1.9]
    for seed in range(50):
        strategy.offer(
            samples([[99, 0]], [1]).columns, torch.tensor([1.0]), torch.tensor([False]), np.random.default_rng(seed)
        )
    assert strategy.scores.tolist() == [1.5, 0.5, 1.9]


def test_a_stored_sample_gives_way_by_its_score_and_that_of_the_new_one():
    scores, new, trials = [1.5, 0.5, 1.0], 0.6, 4000
    counts = [0, 0, 0, 0]  # places, and no place
    for seed in range(trials):
        strategy = filled(scores)
        one = samples([[99, 0]], [1]).columns
        strategy.offer(one, torch.tensor([new]), torch.tensor([True]), np.random.default_rng(seed))
        changed = [place for place in range(3) if strategy.memory["x"][place].flatten()[0] == 99]
        counts[changed[0] if changed else 3] += 1
        for place in changed:
            assert strategy.scores[place].item() == pytest.approx(new) and strategy.memory["y"][place] == 1
    shares = [score / sum(scores) * score / (score + new) for score in scores]
    for count, share in zip(counts, [*shares, 1 - sum(shares)]):
        assert abs(count / trials - share) < 4.5 * (share * (1 - share) / trials) ** 0.5


def test_ranks_keep_one_memory_of_the_samples_of_all():
    rows = task(0)

    def strategy(comm, **options) -> Gss:
        found = ready(Gss(4, compared=3), network(), outputs=OUTPUTS, capacity=6, **options)
        found.updater.comm = comm
        return found

    class Rank(Comm):
        size = 2

        def __init__(self, rank):
            super().__init__()
            self.rank, self.sent, self.every = rank, None, None

        def gather(self, content):
            self.sent = content
            return self.every or [content]

    alone, ranks = strategy(Comm()), [strategy(Rank(number)) for number in range(2)]
    for first in (0, 5, 10):
        parts = [rows.part(slice(first + 2 * number, first + 2 * number + 2)) for number in range(2)]
        alone.observe(rows.part(slice(first, first + 4)))
        sent = [[part.columns, *rank.scores_of(part)] for rank, part in zip(ranks, parts)]
        for rank, part in zip(ranks, parts):
            rank.updater.comm.every = sent
            rank.observe(part)
    expected = alone.state_dict()
    for rank in ranks:
        found = rank.state_dict()
        assert all(torch.equal(found["stored"][name], column) for name, column in expected["stored"].items())
        assert torch.allclose(found["scores"], expected["scores"], atol=1e-6)
        assert rank.nbytes == alone.nbytes // 2 and len(rank.stored_samples()[0]) == 6


def test_a_rank_without_samples_of_its_own_offers_none():
    strategy = gss(capacity=9)
    strategy.observe(NEW.part(slice(None), 0.0))
    assert strategy.stored == 0
