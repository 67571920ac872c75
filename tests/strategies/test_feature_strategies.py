"""Methods without gradients: class means, linear discriminants and ridge regression, by independent formulas."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn
from toys import batch, ready

from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.scenarios.outputs import TaskOutputs
from cl.strategies.features import Features, Moments
from cl.strategies.ncm import Ncm
from cl.strategies.ranpac import RIDGES, Ranpac, best_ridge
from cl.strategies.slda import Slda

CLASSES, WIDTH = 4, 5
MAKE = {"ncm": Ncm, "slda": Slda, "ranpac": lambda: Ranpac(num_features=7)}


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(2, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)
    )


def made(strategy, **more):
    return ready(strategy, network(), outputs=TaskOutputs(CLASSES), **more)


def data(count: int = 40, classes: int = CLASSES, seed: int = 0) -> Rows:
    """Equally many samples of each class, mixed, whose pixels have to do with it."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % classes)
    pixels = np.clip(random.normal(60 * labels[:, None], 40, (count, 2)), 0, 255)
    return batch(pixels.astype(int).tolist(), labels.tolist())


def learn(strategy, rows: Rows, size: int = 8):
    strategy.before_task(0, rows)
    for part in torch.arange(len(rows)).split(size):
        assert strategy.observe(rows.part(part)) == 0
    strategy.after_task(0, rows)
    return strategy


def phi(strategy, rows: Rows) -> np.ndarray:
    """By the layers themselves, with running statistics and without dropout."""
    model = strategy.model.eval()
    with torch.no_grad():
        found = model[3](model[2](model[1](model[0](rows.x / 255))))
    model.train()
    return found.double().numpy()


def scores(strategy, rows: Rows) -> np.ndarray:
    with evaluating(strategy.model):
        return strategy.classifier()(rows.x / 255).numpy()


def test_features_are_what_enters_the_last_layer_and_nothing_stays_behind():
    model = network()
    model[2].eval()  # frozen
    features = Features(model, CLASSES, "a test")
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        found = features(data().x / 255)
    assert features.width == WIDTH and found.shape == (40, WIDTH) and not found.requires_grad
    assert torch.equal(model[5](found), model.eval()(data().x / 255))
    model.train()
    model[2].eval()
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert model.training and model[4].training and not model[2].training
    assert not model[5]._forward_pre_hooks


def test_ncm_scores_by_the_cosine_to_the_class_mean():
    rows = data(classes=3)
    strategy = learn(made(Ncm()), rows)
    features, labels, tests = phi(strategy, rows), rows.y.numpy(), data(seed=1)
    found, asked = scores(strategy, tests), phi(strategy, tests)
    for label in range(3):
        mean = features[labels == label].mean(0)
        cosine = asked @ mean / np.linalg.norm(asked, axis=1) / np.linalg.norm(mean)
        np.testing.assert_allclose(found[:, label], cosine, atol=1e-6)
    assert np.isneginf(found[:, 3]).all()  # of which there were no samples


def test_slda_is_linear_discriminant_analysis_with_the_covariance_within_classes():
    rows, tests = data(), data(seed=1)
    strategy = learn(made(Slda(shrinkage=0.01)), rows)
    features, labels, asked = phi(strategy, rows), rows.y.numpy(), phi(strategy, tests)
    means = np.stack([features[labels == label].mean(0) for label in range(CLASSES)])
    covariance = np.mean([np.outer(d, d) for d in features - means[labels]], axis=0)
    precision = np.linalg.inv(0.99 * covariance + 0.01 * np.eye(WIDTH))
    for label, mean in enumerate(means):
        expected = asked @ precision @ mean - mean @ precision @ mean / 2
        np.testing.assert_allclose(scores(strategy, tests)[:, label], expected, rtol=1e-5, atol=1e-5)


def test_slda_without_shrinkage_is_that_of_scikit_learn():
    rows, tests = data(), data(seed=1)
    strategy = learn(made(Slda(shrinkage=0.0)), rows)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(phi(strategy, rows), rows.y.numpy())
    expected = theirs.decision_function(phi(strategy, tests)) - np.log(1 / CLASSES)  # equal priors
    np.testing.assert_allclose(scores(strategy, tests), expected, rtol=1e-4, atol=1e-4)


def test_a_covariance_without_an_inverse_is_said():
    strategy = learn(made(Slda(shrinkage=0.0)), data(count=3))
    with pytest.raises(ValueError, match="strategy.shrinkage=0 leaves a covariance of 5 features .* give a larger"):
        strategy.classifier()


def ridge(h: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    """[D, C], from the samples themselves."""
    return np.linalg.solve(h.T @ h + strength * np.eye(h.shape[1]), h.T @ np.eye(CLASSES)[labels])


def test_ranpac_is_ridge_regression_on_random_features():
    rows, tests = data(), data(seed=1)
    strategy = learn(made(Ranpac(num_features=7, lambda_=0.3)), rows)
    h, asked = (np.maximum(phi(strategy, part) @ strategy.projection.double().numpy(), 0) for part in (rows, tests))
    weights = ridge(h, rows.y.numpy(), 0.3)
    np.testing.assert_allclose(scores(strategy, tests), asked @ weights, rtol=1e-4, atol=1e-5)
    again, other = made(Ranpac(7), seed=0), made(Ranpac(7), seed=1)
    assert torch.equal(strategy.projection, again.projection)
    assert not torch.equal(strategy.projection, other.projection)
    wide = made(Ranpac(1000)).projection  # 5,000 numbers
    assert wide.mean().abs() < 0.07 and abs(wide.std() - 1) < 0.05  # five standard errors


def test_lambda_is_that_with_the_least_squared_error_on_a_fifth_of_the_task():
    strategy = made(Ranpac(num_features=30))
    first, second = data(classes=2), data(count=60, seed=1)
    for stage, rows in enumerate((first, second)):
        strategy.before_task(stage, rows)
        strategy.observe(rows.part(slice(0, 13)))
        strategy.observe(rows.part(slice(13, None)))
        strategy.after_task(stage, rows)
        h = np.maximum(phi(strategy, rows) @ strategy.projection.double().numpy(), 0)
        held = np.arange(len(rows)) % 5 == 4
        labels = rows.y.numpy()
        errors = [
            np.square(h[held] @ ridge(h[~held], labels[~held], strength) - np.eye(CLASSES)[labels[held]]).sum()
            for strength in RIDGES
        ]
        assert strategy.chosen == RIDGES[int(np.argmin(errors))]
        assert 0 < np.argmin(errors) < len(RIDGES) - 1 and np.ptp(errors) > 1
    everything = Rows.cat([first, second])
    h = np.maximum(phi(strategy, everything) @ strategy.projection.double().numpy(), 0)
    np.testing.assert_allclose(strategy.moments.products, h.T @ h, rtol=1e-4)
    np.testing.assert_allclose(strategy.moments.sums.T, h.T @ np.eye(CLASSES)[everything.y.numpy()], rtol=1e-4)


def test_a_ridge_that_is_too_weak_for_double_precision_is_passed_over():
    fitted, held = (Moments(CLASSES, 6, torch.device("cpu"), products=True) for _ in range(2))
    vectors = torch.full((10, 6), 1e8)  # of rank 1
    fitted.add(vectors, torch.zeros(10, dtype=torch.int64))
    held.add(vectors[:2], torch.zeros(2, dtype=torch.int64))
    assert best_ridge(fitted, held) > 1e-8


def test_a_task_that_is_too_small_for_a_choice_is_refused():
    with pytest.raises(ValueError, match="every fifth sample of a task, and task 1 has 4: give strategy.lambda_"):
        made(Ranpac(7)).before_task(0, data(count=4))


@pytest.mark.parametrize("name", MAKE)
def test_the_size_of_batches_does_not_matter_and_no_weight_moves(name):
    rows, tests = data(), data(seed=1)
    few, many = learn(made(MAKE[name](), lr=0.1), rows, 1), learn(made(MAKE[name](), lr=0.1), rows, 40)
    np.testing.assert_allclose(scores(few, tests), scores(many, tests), rtol=1e-6, atol=1e-6)
    for own, before in zip(few.model.state_dict().values(), network().state_dict().values()):
        assert torch.equal(own, before)  # statistics of batch normalisation as well
    assert few.model.training


@pytest.mark.parametrize("name", MAKE)
def test_the_classifier_can_be_asked_within_a_task(name):
    """Then it knows the samples so far, and asking changes nothing."""
    rows, tests = data(), data(seed=1)
    part = made(MAKE[name]())
    part.before_task(0, rows)
    part.observe(rows.part(slice(0, 24)))
    early = scores(part, tests)
    np.testing.assert_allclose(
        early, scores(learn(made(MAKE[name]()), rows.part(slice(0, 24))), tests), rtol=1e-6, atol=1e-6
    )
    part.observe(rows.part(slice(24, None)))
    part.after_task(0, rows)
    np.testing.assert_array_equal(scores(part, tests), scores(learn(made(MAKE[name]()), rows, 24), tests))


@pytest.mark.parametrize("name", MAKE)
def test_the_state_holds_all_that_was_learned(name):
    rows, tests = data(), data(seed=1)
    whole, resumed, without = (made(MAKE[name]()) for _ in range(3))
    whole.before_task(0, rows)
    whole.observe(rows.part(slice(0, 24)))
    resumed.load_state_dict(whole.state_dict())
    without.before_task(0, rows)
    for strategy in (whole, resumed, without):
        strategy.observe(rows.part(slice(24, None)))
        strategy.after_task(0, rows)
    np.testing.assert_array_equal(scores(whole, tests), scores(resumed, tests))
    assert not np.array_equal(scores(whole, tests), scores(without, tests))


class OneOfTwo:
    """A group of two ranks in which the other one has given these values already."""

    size, rank, is_main = 2, 0, True

    def __init__(self, others):
        self.others = list(others)

    def gather(self, own):
        return [own, self.others.pop(0)]


@pytest.mark.parametrize("name", MAKE)
def test_two_ranks_add_the_samples_of_both_and_those_of_no_weight_once(name):
    rows, tests = data(), data(seed=1)
    alone, other, both = (made(MAKE[name]()) for _ in range(3))
    with evaluating(other.model):
        theirs = [(other.vectors(part.x / 255), part.y) for part in (rows.part(slice(8, 16)), rows.part(slice(16, 40)))]
    both.updater.comm = OneOfTwo(theirs)
    for strategy in (alone, both):
        strategy.before_task(0, rows)
    both.observe(rows.part(slice(0, 8)))
    both.observe(rows.part(slice(0, 1), loss_weight=0.0))
    alone.observe(rows.part(slice(0, 16)))
    alone.observe(rows.part(slice(16, 40)))
    for strategy in (alone, both):
        strategy.after_task(0, rows)
    np.testing.assert_allclose(scores(alone, tests), scores(both, tests), rtol=1e-6, atol=1e-6)
    assert alone.nbytes == 2 * both.nbytes > 0  # each of two ranks says its half
