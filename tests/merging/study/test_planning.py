"""Budgets that are met: capacities and epochs against those worked out by hand, and what the runs have really used."""

import asyncio
import math

import pytest
from omegaconf import OmegaConf
from support import ROOT

from merging.study import run as study
from merging.study import worker
from merging.study.configurations import Configurations
from merging.study.options import Options
from merging.study.planning import DoesNotFit, Planner, Stage
from merging.study.rows import Facts, rows_of
from merging.study.runs import Progress, Runs

DEFAULTS = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "study" / "equal_budget.yaml"))
# 1,442 training digits of 64 bytes with a label and a task of 8 bytes each; 17,610 weights of 4 bytes.
SAMPLES, SAMPLE, NETWORK = 1442, 64 + 16, 4 * (64 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10)


class Inline:
    """A pool without processes."""

    async def call(self, function, *arguments):
        return function(*arguments)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A function that plans a row: from its name and a budget to its words, and what it uses; nothing runs twice."""
    output = tmp_path_factory.mktemp("runs")
    options = Options.read(
        DEFAULTS | {"strategies": [*DEFAULTS["strategies"], "ncm"], "budgets": [200, "400kB", "100kB"], "passes": 4}
    )
    configurations = Configurations((f"output={output}",))
    names = (*options.fusions, "untrained", "last")
    fusions = {name: configurations.of("merge", (f"fusion={name}",))["fusion"] for name in names}
    memories = dict.fromkeys([*options.strategies, *options.both], True)
    nodes = {name: configurations.of("run", (f"strategy={name}",))["strategy"] for name in memories}
    facts = Facts(**worker.facts(configurations.of("run", ()), fusions, nodes), memories=memories)
    runs = Runs(Inline(), configurations, Progress("", 0, False))
    planner = Planner(options, facts, runs, 10, {"output": str(output / ".study"), "seed": 0}, ())
    rows = {row.name: row for row in rows_of(options, facts)}
    budgets = {budget.name: budget for budget in options.budgets}

    def plan(name: str, budget: str = "200 samples", do: bool = True):
        async def everything():
            row = rows[name]
            found = await planner.plan(row, None if row.every_budget else budgets[budget])
            if not do:
                return found.words, None
            values = {"seed": 0}
            if found.base is not None:
                folder, _ = await runs.result("run", found.base, **values)
                values["run"] = str(folder)
            _, used = await runs.result(row.command, found.words, **values)
            return (*found.words, *(found.base or ())), used

        words, used = asyncio.run(everything())
        return dict(word.split("=", 1) for word in words), used

    plan.facts, plan.planner = facts, planner
    return plan


def test_facts_of_the_digits(planned):
    facts = planned.facts
    assert facts.training_samples == sum(facts.task_samples) == SAMPLES
    assert (facts.sample_bytes, facts.batch_norm, facts.small_network) == (SAMPLE, False, True)
    assert facts.fusions["curve"]["trains"] and facts.fusions["regmean"]["looks"]
    assert not facts.fusions["ties"]["looks"] and not any(about["together"] for about in facts.fusions.values())


@pytest.mark.parametrize(
    "words, looks, together",
    [
        (["fusion=ties", "fusion.scale=search"], True, True),
        (["fusion=ties", "fusion.scale=2"], False, False),
        (["fusion=soup"], True, True),
        (["fusion=adamerging"], True, True),
        (["fusion=wudi"], False, False),
        (["fusion=regmean"], True, False),
    ],
)
def test_what_a_fusion_looks_at_depends_on_its_options(words, looks, together):
    configurations = Configurations(())
    node = configurations.of("merge", words)["fusion"]
    about = worker.facts(configurations.of("run", ()), {"it": node}, {})["fusions"]["it"]
    assert (about["looks"], about["together"]) == (looks, together)


def test_task_vectors_need_a_common_init(planned):
    facts = planned.facts
    vectors = {name for name in facts.fusions if facts.fusions[name]["needs_initial"]}
    assert vectors == {"task_arithmetic", "ties", "magmax", "opcm"}


def test_plain_training_has_as_many_epochs_as_passes(planned):
    words, used = planned("finetune")
    assert words["epochs"] == "4" and used["passes"] == 4 * SAMPLES


@pytest.mark.parametrize(
    # A-GEM fills its memory at the end of a task, so the first of five has no draws.
    "name, per_sample, record",
    [("er", 2, 80), ("derpp", 3, 120), ("der", 2, 120), ("agem", 0.2 + 0.8 * 2, 80)],
)
def test_rehearsal_pays_for_its_draws_and_its_logits(planned, name, per_sample, record):
    words, used = planned(name)
    assert int(words["buffer.capacity"]) == 200 * SAMPLE // record
    # Draws of ten for each batch of ten, or of the seven that are left over, but for the first step of all.
    assert float(words["epochs"]) == pytest.approx(4 / per_sample, rel=0.02)
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.01)
    assert used["persistent"]["samples"] == pytest.approx(200 * SAMPLE, rel=0.01)


def test_a_method_without_gradient_steps_sees_each_sample_once(planned):
    words, used = planned("ncm")
    assert words == {"strategy": "ncm"} and planned.facts.untrained == ["ncm"]
    assert (used["forward_passes"], used["backward_passes"], used["passes"]) == (SAMPLES, 0, SAMPLES / 3)
    assert used["persistent"]["samples"] == 0


def test_gdumb_trains_on_its_memory(planned):
    words, used = planned("gdumb")
    assert float(words["epochs"]) == pytest.approx(4 * SAMPLES / (5 * 200), rel=0.02)  # full after the first task
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.02)


def test_training_from_scratch_sees_the_first_task_five_times(planned):
    words, used = planned("scratch")
    assert float(words["epochs"]) == pytest.approx(4 * 5 / (1 + 2 + 3 + 4 + 5), rel=0.02)
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.01)


@pytest.mark.parametrize("name, stages", [("avg + fine-tuning", [200]), ("avg + fine-tuning, running", [200] * 5)])
def test_merging_spends_half_on_the_stored_samples(planned, name, stages):
    words, used = planned(name)
    assert words["finetune_samples"] == "200" and float(words["epochs"]) == pytest.approx(2, abs=0.01)
    # Merged task by task, the 200 are divided among the tasks so far: 200, 100 + 100, 66 + 66 + 66, ...
    seen = sum(min(count // number, math.inf) * number for number, count in enumerate(stages, start=1))
    seen = seen if len(stages) > 1 else 200
    assert float(words["finetune_epochs"]) == pytest.approx(2 * SAMPLES / seen, rel=0.01)
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.02)
    assert used["persistent"]["networks"] == (2 if len(stages) > 1 else 5) * NETWORK


def test_a_curve_is_trained_on_the_stored_samples(planned):
    words, used = planned("curve")
    assert words["fusion.samples_per_task"] == "40"
    # Four curves, on two, three, four and five tasks.
    assert float(words["fusion.epochs"]) == pytest.approx(2 * SAMPLES / (40 * (2 + 3 + 4 + 5)), rel=0.01)
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.02)


def test_a_fusion_pays_for_what_it_looks_at(planned):
    words, used = planned("fisher")
    # 100 of each task, forward once and backward for each of ten outputs.
    looked = 500 * (1 + 2 * 10) / 3
    assert float(words["epochs"]) == pytest.approx((4 * SAMPLES - looked) / SAMPLES, rel=0.01)
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.02)


def test_an_untrained_network_gets_the_passes_of_fine_tuning_or_all(planned):
    tuned, used = planned("untrained network + fine-tuning")
    assert used["passes"] == pytest.approx(2 * SAMPLES, rel=0.01)
    assert tuned["epochs"] == "2"  # of networks that are there for other rows
    assert planned("untrained network + fine-tuning, all passes")[1]["passes"] == pytest.approx(4 * SAMPLES, rel=0.01)


def test_rehearsal_and_averaging_together(planned):
    words, used = planned("er, averaged over tasks")
    assert words["buffer.capacity"] == "200" and float(words["epochs"]) == pytest.approx(2, rel=0.02)
    assert used["passes"] == pytest.approx(4 * SAMPLES, rel=0.01)
    assert used["persistent"]["networks"] == 2 * NETWORK and used["persistent"]["samples"] == 200 * SAMPLE


def test_bytes_are_those_of_networks_and_samples_together(planned):
    words, used = planned("derpp", "100 kB")
    assert int(words["buffer.capacity"]) == (100_000 - NETWORK) // 120
    assert used["persistent_bytes"] == pytest.approx(100_000, rel=0.02)
    words, used = planned("avg + fine-tuning", "400 kB")
    assert int(words["finetune_samples"]) == (400_000 - 5 * NETWORK) // SAMPLE // 5 * 5
    assert used["persistent_bytes"] == pytest.approx(400_000, rel=0.02)


def test_more_memory_than_there_are_samples_stores_them_all(planned):
    words, used = planned("er", "400 kB")
    assert int(words["buffer.capacity"]) == SAMPLES


@pytest.mark.parametrize("steps", [3, 7, 15, 29, 143])
@pytest.mark.parametrize("budget", [0.5, 1, 1.3, 2, 10])
def test_whole_steps_do_not_go_over_the_budget(planned, steps, budget):
    stages = [Stage(steps, 20, -10 if not number else 0) for number in range(5)]
    passes = budget * 100 * steps
    epochs = planned.planner._solved(passes, stages, None)
    used = sum(stage.constant + 20 * max(1, round(epochs * steps)) for stage in stages)
    # At most the budget, and no more than one step of each task below it.
    assert passes - 5 * 20 * 1.01 <= used <= passes * 1.002 or max(1, round(epochs * steps)) == 1


def test_what_does_not_fit_says_why(planned):
    with pytest.raises(DoesNotFit, match="needs at least 353 kB: networks 352 kB, and 5 samples"):
        planned("avg + fine-tuning", "100 kB", do=False)


def test_compute_that_a_fusion_needs_alone_is_said():
    with pytest.raises(DoesNotFit, match="needs more than 10 passes before it has trained at all"):
        planner = object.__new__(Planner)
        planner.compute = 10
        planner._solved(-1.0, [], type("Row", (), {"name": "fisher"}))


def test_a_study_of_other_things_than_labels_is_refused():
    config = Configurations(("dataset=ptycho_synthetic", "scenario=reconstruction", "backbone=ptychonn")).of("run", ())
    with pytest.raises(ValueError, match="a study merges classifiers"):
        worker.facts(config, {}, {})


@pytest.mark.parametrize(
    "word, says",
    [
        ("overwrite=true", "keeps what is finished; remove the folders"),
        ("epochs=3", "a study decides this for each row; its option is study.passes"),
        ("strategy=er", "its option is study.strategies and study.bounds"),
        ("buffer.capacity=100", "its option is study.budgets"),
        ("strategy.replay_batch_size=5", r"study.words.NAME=\[strategy.replay_batch_size=5\]"),
        ("checkpoints=[a.pt]", "a study trains its own networks"),
        ("protocol=published", "a protocol is for merging alone"),
        ("launcher=torchrun", "launcher=torchrun: merging runs in one process"),
    ],
)
def test_a_word_that_cannot_be_for_all_rows_is_refused(word, says):
    with pytest.raises(ValueError, match=says):
        study.run(DEFAULTS, [], [word], [0])
