"""Experiment files beside their sources: what is published stands in them, whatever the defaults of a group are."""

import pytest
from support import ROOT

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
# Computed patterns, of which the data set knows the mean; learners for any data; and weights that know the mean.
WITHOUT_PICTURES = {"ptycho_synthetic", "gdumb_learner", "online", "split_cifar10_features", "split_cifar10_finetuned"}


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in WITHOUT_PICTURES])
def test_an_experiment_says_how_pictures_are_prepared(compose_config, name):
    words = (f"+experiment={name}", "buffer.capacity=200", "dataset.root=x")
    own, others = compose_config(*words), compose_config("dataset=image_folder", *words)
    for key in ("mean", "std", "augment"):
        assert own.dataset[key] == others.dataset[key], key


# Learning rate, draw, alpha and beta of Buzzega et al. 2020, as their code has them for "the best arguments"
# (aimagelab/mammoth, utils/best_args.py: seq-mnist, perm-mnist, rot-mnist, seq-cifar10), by memory.
BUZZEGA = {
    "split_mnist": (1, 10, {
        "finetune": {200: (0.03,)},
        "er": {200: (0.01, 10), 500: (0.1, 10), 5120: (0.1, 10)},
        "agem": {200: (0.1, 128), 500: (0.1, 128), 5120: (0.1, 128)},
        "der": {200: (0.03, 10, 0.2), 500: (0.03, 128, 1.0), 5120: (0.1, 128, 0.5)},
        "derpp": {200: (0.03, 128, 0.2, 1.0), 500: (0.03, 10, 1.0, 0.5), 5120: (0.1, 64, 0.2, 0.5)},
        "icarl": {200: (0.1,), 500: (0.1,), 5120: (0.1,)},
        "gem": {200: (0.01, 1.0), 500: (0.03, 0.5), 5120: (0.1, 1.0)},
        # NeurAI-Lab/CLS-ER, in the same place: draw, lambda and the rate of the stable average
        "cls_er": {200: (0.03, 128, 2.0, 0.9), 500: (0.1, 32, 2.0, 0.9), 5120: (0.1, 32, 2.0, 0.8)},
    }),
    "permuted_mnist": (1, 128, {
        "finetune": {200: (0.2,)},
        "er": {200: (0.2, 128), 500: (0.2, 128), 5120: (0.2, 128)},
        "agem": {200: (0.1, 128), 500: (0.1, 128), 5120: (0.1, 128)},
        "der": {200: (0.2, 128, 1.0), 500: (0.2, 128, 1.0), 5120: (0.2, 128, 0.5)},
        "derpp": {200: (0.1, 128, 1.0, 1.0), 500: (0.2, 128, 1.0, 0.5), 5120: (0.2, 128, 0.5, 1.0)},
    }),
    "rotated_mnist": (1, 128, {
        "finetune": {200: (0.2,)},
        "er": {200: (0.2, 128), 500: (0.2, 128), 5120: (0.2, 128)},
        "agem": {200: (0.1, 128), 500: (0.3, 128), 5120: (0.3, 128)},
        "der": {200: (0.2, 128, 1.0), 500: (0.2, 128, 0.5), 5120: (0.2, 128, 0.5)},
        "derpp": {200: (0.1, 128, 1.0, 0.5), 500: (0.2, 128, 0.5, 1.0), 5120: (0.2, 128, 0.5, 0.5)},
    }),
    "split_cifar10": (50, 32, {
        "finetune": {200: (0.1,)},
        "er": {200: (0.1, 32), 500: (0.1, 32), 5120: (0.1, 32)},
        "agem": {200: (0.03, 32), 500: (0.03, 32), 5120: (0.03, 32)},
        "der": {200: (0.03, 32, 0.3), 500: (0.03, 32, 0.3), 5120: (0.03, 32, 0.3)},
        "derpp": {200: (0.03, 32, 0.1, 0.5), 500: (0.03, 32, 0.2, 0.5), 5120: (0.03, 32, 0.1, 1.0)},
    }),
}  # fmt: skip


@pytest.mark.parametrize("benchmark", BUZZEGA)
def test_the_protocols_of_buzzega_have_the_published_values(compose_config, benchmark):
    epochs, batch_size, methods = BUZZEGA[benchmark]
    for method, by_capacity in methods.items():
        for capacity, (rate, *others) in by_capacity.items():
            config = compose_config(f"+experiment={benchmark}_{method}", f"buffer.capacity={capacity}")
            assert (config.epochs, config.batch_size, config.optimizer.lr) == (epochs, batch_size, rate)
            assert config.optimizer.name == "sgd" and config.optimizer.momentum == config.optimizer.weight_decay == 0
            assert config.schedule.name == "constant"
            keys = ("replay_batch_size", "alpha", "beta", "margin", "lambda_", "stable_rate")
            found = [config.strategy.get(key) for key in keys]
            assert [value for value in found if value is not None] == others, (method, capacity)


def test_the_merging_tables_have_the_published_splits(compose_config):
    """Of MNIST one class belongs to the first network alone; of CIFAR-10 none, as the authors' code compares its label
    with a name."""
    for name, whole_class in (("skewed_mnist", 4), ("skewed_cifar10", None)):
        config = compose_config(f"+experiment={name}", "protocol=published", name="merge")
        assert (config.scenario.whole_class, config.scenario.first_share) == (whole_class, 0.1)
        assert (config.epochs, config.batch_size, config.optimizer.lr, config.optimizer.momentum) == (
            10,
            128,
            0.07,
            0.9,
        )
        assert (config.optimizer_state, config.schedule.name, config.fusion.name) == ("epoch", "constant", "avg")
    assert list(config.dataset.augment) == ["crop", "flip"]
