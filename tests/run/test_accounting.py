"""What results.json says of compute and memory, worked out by hand for every strategy.

Two tasks of five digits each (723 and 719 training samples), three steps of ten on each, draws of four from a memory of
20, and a network of 64, 8 and 10 units: 610 weights.
"""

import json

import pytest
import torch
from support import ROOT

from cl.run import costs, experiment
from cl.run.callbacks import Callback
from cl.strategies.base import Strategy

WORDS = (
    "scenario=class2", "backbone.hidden=[8]", "steps=3", "batch_size=10", "buffer.capacity=20", "progress=false",
    "pictures=[]", "optimizer=sgd",
)  # fmt: skip
NETWORK = 4 * (64 * 8 + 8 + 8 * 10 + 10)
ROW = 64 + 8 + 8  # pixels, label, task
ALL = 723 + 719
TRUST = f"trust=[{__name__}]"
NEW = 2 * 3 * 10  # samples in the steps
# One draw per step but the first, for which nothing was asked yet; A-GEM fills its memory after the first task.
DRAWN, AGEM = 5 * 4, 3 * 4
XDER = 20 + 10  # five classes share 20 records, then ten
MIR = 5 * 10  # new samples of the virtual steps; then 10 candidates, later 12, are scored twice
# After the tasks: the features of their samples, then of the exemplars of each class so far, for its mean.
HERDED = 723 + 5 * 4 + 719 + 10 * 2
OPTIONS = {"ewc": ["strategy.fisher_samples=7"], "ranpac": ["strategy.num_features=16"]}
DRAW = "strategy.replay_batch_size=4"
OPTIONS["scr"] = [DRAW, "strategy.projection_hidden=4", "strategy.projection_dim=3"]
OPTIONS |= dict.fromkeys(("er", "er_ace", "der", "derpp", "agem", "fdr", "gss", "cls_er", "xder"), [DRAW])
OPTIONS["mir"] = [DRAW, "strategy.candidates=12"]
# Forward and backward passes; bytes of samples and of statistics.
BY_HAND = {
    "finetune": (NEW, NEW, 0, 0),
    "independent": (NEW, NEW, 0, 0),
    "scratch": (NEW, NEW, ALL * ROW, 0),
    "joint": (NEW // 2, NEW // 2, ALL * ROW, 0),  # one stage
    "er": (NEW + DRAWN, NEW + DRAWN, 20 * ROW, 0),
    "er_ace": (NEW + DRAWN, NEW + DRAWN, 20 * ROW, 10),  # which classes were seen
    "der": (NEW + DRAWN, NEW + DRAWN, 20 * (ROW + 4 * 10), 0),  # with logits
    "derpp": (NEW + 2 * DRAWN, NEW + 2 * DRAWN, 20 * (ROW + 4 * 10), 0),
    "agem": (NEW + AGEM, NEW + AGEM, 20 * ROW, 0),
    # Filled as A-GEM's memory; then the records of the task (of the second 11) are asked for their outputs.
    "fdr": (NEW + AGEM + 20 + 11, NEW + AGEM, 20 * (ROW + 4 * 10), 0),
    # Each step but the first scores its 10 new samples with 10 stored ones, and each record has a score.
    "gss": (NEW + DRAWN + 5 * 20, NEW + DRAWN + 5 * 20, 20 * ROW, 20 * 8),
    "mir": (NEW + DRAWN + MIR + 2 * 10 + 4 * 2 * 12, NEW + DRAWN + MIR, 20 * ROW, 0),
    "cls_er": (NEW + 3 * DRAWN, NEW + DRAWN, 20 * ROW, 2 * NETWORK),  # both averages answer for the records
    # The first task sees a second view. The second draws twice; at its end all records are revised, and the new ones
    # come with their logits.
    "xder": (NEW + NEW // 2 + 2 * 3 * 4 + 20 + XDER, NEW + NEW // 2 + 2 * 3 * 4, 20 * (ROW + 4 * 10 + 8), 0),
    "gem": (NEW + 3 * 10, NEW + 3 * 10, 20 * ROW, 0),  # all 10 samples of the first task
    "gdumb": (NEW, NEW, 20 * ROW, 0),
    "ewc": (NEW + 2 * 7, NEW + 2 * 7 * 10, 0, 2 * NETWORK),  # importances and anchors
    "si": (NEW, NEW, 0, 2 * NETWORK),
    "lwf": (NEW + NEW // 2, NEW, 0, 0),  # the network before the second task is asked about its samples
    "wa": (NEW + NEW // 2 + 723 + 719, NEW, 10 * 2 * ROW, 0),  # the features of the samples, for herding
    "lucir": (NEW + NEW // 2 + 723 + 719, NEW, 10 * 2 * ROW, 4),  # and the scale
    # and the outputs of what is held out of the second task; the last layer without the correction, 8 features
    "bic": (NEW + NEW // 2 + 723 + 719 + 10, NEW, 10 * 2 * ROW, 4 * 10 * (8 + 1)),
    "icarl": (NEW + NEW // 2 + HERDED, NEW, 10 * 2 * ROW, 4 * 10 * 8),  # a mean of 8 features for each class
    # Every sample once, whatever steps say; numbers of 8 bytes: samples and features by class, products of features.
    "ncm": (ALL, 0, 0, 8 * (10 + 10 * 8)),
    "slda": (ALL, 0, 0, 8 * (10 + 10 * 8 + 8 * 8)),
    # Two views; then the features of the memory. A projection from 8 to 4 and to 3.
    "scr": (2 * (NEW + DRAWN) + 2 * 20, 2 * (NEW + DRAWN), 20 * ROW, 4 * (8 * 4 + 4 + 4 * 3 + 3)),
    "mas": (NEW + ALL, NEW + ALL, 0, 2 * NETWORK),
    "ranpac": (ALL, 0, 0, 8 * (10 + 10 * 16 + 16 * 16)),
}


@pytest.fixture
def results_of(compose_config):
    def make(*words: str) -> dict:
        return json.loads((experiment.run(compose_config(*WORDS, *words)) / "results.json").read_text())

    return make


def test_every_strategy_is_here():
    assert sorted(BY_HAND) == sorted(path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml"))


@pytest.mark.parametrize("strategy", BY_HAND)
def test_passes_and_bytes_of_every_strategy(results_of, strategy):
    content = results_of(f"strategy={strategy}", *OPTIONS.get(strategy, []))
    forward, backward, samples, statistics = BY_HAND[strategy]
    assert (content["forward_passes"], content["backward_passes"]) == (forward, backward)
    assert content["unlabelled_forward_passes"] == content["unlabelled_backward_passes"] == 0
    assert content["passes"] == pytest.approx((forward + 2 * backward) / 3)
    assert sum(content["stage_passes"]) == pytest.approx(content["passes"])
    assert len(content["stage_passes"]) == len(content["accuracy_matrix"])
    products = 64 * 8 + 8 * 10
    assert content["flops"] == 2 * (forward * products + backward * (products + 8 * 10))
    persistent = {"networks": NETWORK, "start": 0, "samples": samples, "statistics": statistics}
    assert content["persistent"] == persistent
    assert content["persistent_bytes"] == sum(persistent.values())
    assert content["optimizer_bytes"] == 0  # plain SGD


@pytest.mark.parametrize(
    "words, forward, backward, samples",
    [
        (["strategy=er", DRAW, "batch_size=5", "gradient_accumulation_steps=2"], 80, 80, 20 * ROW),
        (["strategy=agem", DRAW, "batch_size=5", "gradient_accumulation_steps=2"], 72, 72, 20 * ROW),
        (["strategy=er", DRAW, "strategy.replay_from=2"], 60 + 3 * 4, 60 + 3 * 4, 20 * ROW),
        (["strategy=derpp", DRAW, "strategy.folded=true", "strategy.beta=null"], 100, 100, 20 * (ROW + 40)),
        (["strategy=ewc", "strategy.fisher_samples=7", "strategy.fisher_labels=sampled"], 60 + 14, 60 + 14, 0),
        (["strategy=ewc", "strategy.fisher_samples=7", "scenario=task5"], 150 + 5 * 7, 150 + 5 * 7 * 2, 0),
        (["strategy=finetune", "scenario.concatenate=true"], 60, 60, ALL * ROW),
        (["strategy=lwf", "strategy.warmup_steps=2"], 60 + 10, 60, 0),
        (["strategy=finetune", "mixing.mixup=1.0"], 60, 60, 0),
    ],
    ids=[
        "accumulated er",
        "accumulated agem",
        "replay from",
        "folded",
        "sampled",
        "2 outputs",
        "again",
        "warm",
        "mixed",
    ],
)
def test_options_that_change_what_a_step_is(results_of, words, forward, backward, samples):
    content = results_of(*words)
    assert (content["forward_passes"], content["backward_passes"]) == (forward, backward)
    assert content["persistent"]["samples"] == samples


@pytest.mark.parametrize("optimizer, numbers", [("optimizer.momentum=0.9", 1), ("optimizer=adam", 2)])
def test_the_state_of_the_optimizer_is_a_column_of_its_own(results_of, optimizer, numbers):
    content = results_of("strategy=finetune", optimizer)
    steps = 4 * 4 if "adam" in optimizer else 0  # Adam counts the steps of each of four tensors
    assert content["optimizer_bytes"] == numbers * NETWORK + steps
    assert content["persistent_bytes"] == NETWORK


def test_the_average_of_the_weights_is_a_second_network(results_of):
    content = results_of("strategy=er", DRAW, "ema=0.9")
    assert (content["forward_passes"], content["backward_passes"]) == (NEW + DRAWN, NEW + DRAWN)
    assert content["persistent"] == {"networks": 2 * NETWORK, "start": 0, "samples": 20 * ROW, "statistics": 0}


def test_statistics_of_batch_norm_persist_and_gradients_by_sample_are_one_forward_pass(compose_config):
    words = [word for word in WORDS if not word.startswith(("backbone", "steps"))]
    network = ("backbone=timm", "backbone.model=test_resnet", "steps=1")
    folder = experiment.run(compose_config(*words, *network, "strategy=ewc", "strategy.fisher_samples=3"))
    content = json.loads((folder / "results.json").read_text())
    assert (content["forward_passes"], content["backward_passes"]) == (2 * 10 + 2 * 3, 2 * 10 + 2 * 3 * 10)
    weights = torch.load(folder / "task_01.pt")["model"]
    assert content["persistent"]["networks"] == sum(value.nbytes for value in weights.values())
    trained = [value.nbytes for name, value in weights.items() if not name.endswith(("_mean", "_var", "_tracked"))]
    assert len(trained) < len(weights) and content["persistent"]["statistics"] == 2 * sum(trained)


class Asks(Callback):
    """Asks the network at every place where it is called."""

    def on_run_start(self, context):
        self.model = context.model
        self.ask()

    def ask(self, *_):
        self.model(torch.zeros(50, 1, 8, 8))

    on_step = on_stage_end = ask

    def on_stage_start(self, stage, num_samples, steps):
        self.ask()


class KeepsSamples(Strategy):
    """Keeps the first samples of each task and their mean, and says which of them are samples."""

    def setup(self, context):
        super().setup(context)
        self.kept = []

    def after_task(self, stage, samples):
        self.kept.append(samples.part(slice(3)))
        self.model(self.transform.test(self.kept[-1].x))

    def stored_samples(self):
        return self.kept

    def state_dict(self):
        means = [rows.x.double().mean(0) for rows in self.kept]
        return super().state_dict() | {"kept": [rows.columns for rows in self.kept], "means": means}


def test_what_callbacks_ask_is_not_counted(results_of):
    content = results_of("strategy=finetune", f"+callbacks.asks._target_={__name__}.Asks", TRUST)
    assert (content["forward_passes"], content["backward_passes"]) == (NEW, NEW)


def test_a_strategy_of_a_user_is_counted_by_what_it_does_and_keeps(results_of):
    content = results_of("strategy=finetune", f"strategy._target_={__name__}.KeepsSamples", TRUST)
    assert (content["forward_passes"], content["backward_passes"]) == (NEW + 6, NEW + 6)
    assert content["persistent"]["samples"] == 6 * ROW and content["persistent"]["statistics"] == 2 * 64 * 8


def test_what_is_stored_twice_under_two_names_counts_once():
    value, other = torch.zeros(5), torch.zeros(3, dtype=torch.float64)
    assert costs.size({"a": value, "b": [value, (other, 7, "word", None)]}) == 20 + 24
    assert costs.size([value, other], without=[value.detach()]) == 24
