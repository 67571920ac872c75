"""What a merge says of the training behind it: of the networks that it needs, each once, also after an interruption."""

import json

import pytest
from support import QUICK

from cl.configuration.identity import config_hash
from cl.reporting.history import TOTALS
from cl.run import experiment
from cl.run.folder import plain
from merging import run
from merging.curve import landscape

WORDS = (*QUICK, "scenario=class2", "steps=4", "baselines=[]", "finetune_samples=20", "finetune_epochs=3")
TRAINED = (*QUICK, "scenario=class2", "steps=4")
NETWORK = 4 * (64 * 16 + 16 + 16 * 10 + 10)


@pytest.fixture
def results_of(compose_config):
    def make(*words: str) -> dict:
        folder = run.run(compose_config(*WORDS, *words, name="merge"))[-1]
        return json.loads((folder / "results.json").read_text())

    return make


def test_seconds_steps_and_samples_are_those_of_the_networks_that_are_used(results_of):
    """Two networks of four steps of ten; six steps on twenty samples after the merge."""
    rows = {name: results_of(f"fusion={name}") for name in ("avg", "last", "untrained")}
    for name, networks in (("avg", 2), ("last", 1), ("untrained", 0)):
        assert rows[name]["gradient_steps"] == 4 * networks + 6
        assert rows[name]["labelled_samples"] == 40 * networks + 60 == rows[name]["passes"]
    assert rows["untrained"]["train_seconds"] == rows["untrained"]["merge_seconds"]
    assert rows["last"]["train_seconds"] > rows["last"]["merge_seconds"]


def test_nobody_knows_how_networks_in_files_were_trained(results_of, compose_config, tmp_path):
    folder = experiment.run(compose_config("strategy=independent", *TRAINED))
    files = ",".join(str(file) for file in sorted(folder.glob("task_*.pt")))
    found = results_of("fusion=avg", f"checkpoints=[{files}]")
    assert [found[name] for name in (*TOTALS, "passes")] == [None] * 4
    assert found["merge_gradient_steps"] == 6


@pytest.mark.parametrize("order", ["running=true", "sequential=true"])
def test_a_merge_from_which_a_network_started_counts_once(results_of, order):
    """Five networks: the merges of the first one to four were made when the next network began."""
    found = results_of("fusion=avg", "scenario.num_tasks=5", "strategy.init=merged", order)
    # Twenty samples, of three tasks six each, three times through them.
    assert found["passes"] == 5 * 40 + 3 * (20 + 20 + 18 + 20 + 20)
    assert found["merge_passes"] == 3 * 20
    assert found["gradient_steps"] == 5 * 4 + 3 * 5 * 2


def test_a_merge_that_was_interrupted_keeps_the_seconds_of_its_training(results_of, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    words = ("fusion=curve", "fusion.epochs=5", "fusion.points=2", "fusion.plane=0", "finetune_samples=0")
    with monkeypatch.context() as patch:
        patch.setattr(landscape, "along", stopped)
        with pytest.raises(KeyboardInterrupt):
            results_of(*words)
    resumed, whole = results_of(*words), results_of(*words, "overwrite=true")
    assert resumed["passes"] == whole["passes"]
    # It trained for nothing after the interruption, and says what it took before.
    assert resumed["merge_seconds"] > 0.3 * whole["merge_seconds"]


@pytest.mark.parametrize(
    "words, networks",
    [
        (("strategy=er",), 2),  # the raw weights go on
        (("strategy=independent",), 1),
        (("strategy=independent", "strategy.init=previous"), 2),
        (("strategy=scratch",), 1),
        (("strategy=er", "model_state=reset"), 1),
    ],
    ids=["er", "independent", "previous", "scratch", "reset"],
)
def test_with_an_average_the_raw_weights_persist_where_a_task_starts_from_them(compose_config, words, networks):
    folder = experiment.run(compose_config(*words, "ema=0.9", *TRAINED))
    assert json.loads((folder / "results.json").read_text())["persistent"]["networks"] == networks * NETWORK


def test_merges_of_the_runs_of_several_seeds_are_one_configuration(compose_config):
    def code(folder: str, seed: int) -> str:
        return config_hash(
            plain(compose_config("fusion=avg", f"run={folder}/seed{seed}", f"seed={seed}", name="merge"))
        )

    assert code("a/er_50", 0) == code("a/er_50", 1) != code("a/er_60", 1)
    config = compose_config("fusion=avg", "run=a/er_50/seed1", "seed=0", name="merge")  # networks of another seed
    assert config_hash(plain(config)) != code("a/er_50", 0)
