"""The worked example of a user's own strategy: two files of the user, none of ours."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir
from support import QUICK, ROOT

from cl.run import experiment

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def results_of(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)

    def make(*overrides: str) -> tuple[dict, list[dict]]:
        words = [
            f"hydra.searchpath=[file://{EXAMPLES / 'conf'}]",
            f"output={tmp_path}",
            "scenario=class2",
            "trust=[my_strategy]",
            *QUICK,
        ]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            folder = experiment.run(compose("run", [*words, *overrides]))
        logged = folder / "strategy_metrics.csv"
        rows = list(csv.DictReader(logged.open())) if logged.exists() else []
        return json.loads((folder / "results.json").read_text()), rows

    return make


def test_a_weight_of_zero_is_finetuning_and_one_of_one_forgets_less(results_of):
    none, _ = results_of("strategy=weighted_replay", "strategy.weight=0")
    finetune, _ = results_of("strategy=finetune")
    assert none["accuracy_matrix"] == finetune["accuracy_matrix"]
    one, logged = results_of("strategy=weighted_replay")
    assert one["forgetting"] < finetune["forgetting"] - 0.1
    assert "strategy=weighted_replay" in one["identity"] and one["buffer_capacity"] == 200
    assert {row["name"] for row in logged} == {"replayed_loss"} and all(float(row["value"]) > 0 for row in logged)


def test_its_options_are_checked_like_ours(results_of):
    with pytest.raises(ValueError, match="strategy.weight must be a number of at least 0, got -1"):
        results_of("strategy=weighted_replay", "strategy.weight=-1")
