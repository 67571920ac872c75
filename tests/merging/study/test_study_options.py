"""The options of a study, its command line and its rows, before anything runs."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support import ROOT

from cl.run.folder import plain
from merging.study import words
from merging.study.configurations import Configurations, folder_of
from merging.study.options import Budget, Options, parse_budget
from merging.study.rows import Facts, rows_of, samples_words

DEFAULTS = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "study" / "equal_budget.yaml"))
WEIGHTS = {
    "needs_initial": False, "weights": True, "most_models": None, "trains": False, "looks": False, "together": False,
}  # fmt: skip
FUSIONS = {name: WEIGHTS for name in DEFAULTS["fusions"]} | {
    "curve": WEIGHTS | {"trains": True},
    "regmean": WEIGHTS | {"looks": True},
    "ensemble": WEIGHTS | {"weights": False},
    **{name: WEIGHTS | {"needs_initial": True} for name in ("task_arithmetic", "ties", "magmax", "opcm")},
}
MEMORIES = dict.fromkeys([*DEFAULTS["strategies"], *DEFAULTS["both"]], True)
FACTS = Facts(1000, [200] * 5, 80, False, 0.1, True, None, MEMORIES, FUSIONS)
ROWS = rows_of(Options.read(DEFAULTS), FACTS)


@pytest.mark.parametrize(
    "value, budget",
    [
        (200, Budget("200 samples", 200, None)),
        ("1000", Budget("1,000 samples", 1000, None)),
        ("500kB", Budget("500 kB", None, 500_000)),
        ("1.5 MB", Budget("1.5 MB", None, 1_500_000)),
        ("2GB", Budget("2 GB", None, 2_000_000_000)),
    ],
)
def test_a_budget_is_a_number_of_samples_or_bytes_with_a_unit(value, budget):
    assert parse_budget(value) == budget


@pytest.mark.parametrize("value", [0, -5, 2.5, "20%", "10/class", "kB", "0kB", "5 kb", True])
def test_any_other_budget_is_an_error_that_says_what_is_valid(value):
    with pytest.raises(ValueError, match="study.budgets must be numbers of samples such as 200, or bytes with a unit"):
        parse_budget(value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"strategis": ["er"]}, "unknown option study.strategis .did you mean strategies"),
        ({"strategies": ["erpp"]}, "study.strategies=erpp does not exist .did you mean derpp"),
        ({"fusions": ["average"]}, "study.fusions=average does not exist"),
        ({"bounds": ["upper"]}, "study.bounds=upper does not exist; valid: finetune, joint"),
        ({"memory_share": 1.0}, "study.memory_share"),
        ({"orders": ["end", "start"]}, "study.orders"),
        ({"budgets": []}, "study.budgets is empty"),
        ({"search": {"factors": [1], "validation": 0.1}}, "study.search.seeds is missing"),
        ({"search": {"factors": [], "validation": 0.1, "seeds": [0]}}, "study.search.factors is empty"),
        ({"words": {"regman": []}}, "study.words=regman does not exist .did you mean regmean"),
        ({"jobs": 0}, "study.jobs"),
        ({"budgets": [50, "50"]}, "study.budgets has one budget twice"),
        ({"strategies": ["er", "er"]}, "study.strategies has one value twice"),
    ],
)
def test_a_mistake_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        Options.read(DEFAULTS | change)


def test_a_missing_option_is_named():
    with pytest.raises(ValueError, match="study.passes is missing"):
        Options.read({key: value for key, value in DEFAULTS.items() if key != "passes"})


def test_seeds_are_one_job():
    given = ["study=equal_budget", "dataset=mnist", "dataset.root=a b", "seed=3,5"]
    kept = ["study=equal_budget", "dataset=mnist", "dataset.root=a b", "study.seeds=[3,5]"]
    assert words.as_one_job(given, ["-m"]) == (kept, [])
    assert words.as_one_job(["study=equal_budget", "seed=range(0,3)"], ["--multirun"])[0][1] == "study.seeds=[0,1,2]"


def test_other_commands_are_left_as_they_are():
    for given, flags in ((["fusion=avg", "seed=0,1"], ["-m"]), (["study=equal_budget", "seed=1"], [])):
        assert words.as_one_job(given, flags) == (given, flags)


def test_a_study_takes_no_other_sweep():
    with pytest.raises(ValueError, match="optimizer.lr=0.1,0.2: a study compares rows of one set-up"):
        words.as_one_job(["study=equal_budget", "optimizer.lr=0.1,0.2"], ["-m"])


def test_rows_have_different_names_and_need_what_the_fusions_need():
    rows = rows_of(Options.read(DEFAULTS), FACTS)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    # Task vectors need a common init, an ensemble has no weights, and a curve is trained on the samples itself.
    assert "ties" in names and "ties, running" in names and "ties, independent" not in names
    assert "avg + fine-tuning, independent, running" in names
    assert "ensemble" in names and "ensemble, running" not in names and "ensemble + fine-tuning" not in names
    assert "curve" in names and "curve + fine-tuning" not in names
    by_name = {row.name: row for row in rows}
    assert by_name["curve"].stores == "fusion.samples_per_task" and by_name["curve"].share == 0.5
    assert by_name["avg"].every_budget and not by_name["avg + fine-tuning"].every_budget


def test_what_a_fusion_looks_at_task_by_task_is_among_the_stored_samples():
    rows = {row.name: row for row in ROWS}
    assert rows["regmean"].every_budget and not rows["regmean, running"].every_budget
    assert samples_words(rows["regmean, running"], 53, FACTS) == ("fusion.samples_per_task=10",)
    tuned = rows["regmean + fine-tuning, running"]
    assert samples_words(tuned, 53, FACTS) == ("finetune_samples=50", "fusion.samples_per_task=10")
    assert samples_words(rows["regmean + fine-tuning"], 53, FACTS) == ("finetune_samples=50",)


def test_a_fusion_that_looks_at_all_tasks_at_once_keeps_their_samples_until_the_end():
    node = DEFAULTS | {"fusions": ["soup"], "both": [], "controls": False, "strategies": [], "bounds": []}
    facts = Facts(
        1000, [200] * 5, 80, False, 0.1, True, None, {}, {"soup": WEIGHTS | {"looks": True, "together": True}}
    )  # fmt: skip
    rows = {row.name: row for row in rows_of(Options.read(node), facts)}
    assert not rows["soup"].every_budget and not rows["soup, running"].every_budget
    assert samples_words(rows["soup"], 53, facts) == ("fusion.samples_per_task=10",)
    assert samples_words(rows["soup + fine-tuning"], 53, facts) == ("finetune_samples=50", "fusion.samples_per_task=10")


def test_a_fusion_of_two_networks_is_merged_running_where_there_are_more():
    node = DEFAULTS | {"fusions": ["slerp"], "both": [], "controls": False, "strategies": [], "bounds": []}
    two = {"slerp": WEIGHTS | {"most_models": 2}}
    facts = [Facts(1000, samples, 80, False, 0.1, True, None, MEMORIES, two) for samples in ([200] * 5, [500] * 2)]
    many, pair = ([row.name for row in rows_of(Options.read(node), each)] for each in facts)
    assert all("running" in name for name in many) and "slerp" in pair


def test_batch_norm_is_recalibrated_on_the_stored_samples():
    options = Options.read(DEFAULTS)
    facts = Facts(1000, [200] * 5, 80, True, 0.1, True, None, MEMORIES, FUSIONS)
    rows = {row.name: row for row in rows_of(options, facts)}
    assert samples_words(rows["avg + fine-tuning"], 53, facts) == ("finetune_samples=50", "batch_norm_samples=53")
    assert samples_words(rows["avg"], 50, facts) == ("batch_norm_samples=50",)
    assert samples_words(rows["er"], 50, facts) == ("buffer.capacity=50",)


SHARED = (
    "dataset=mnist",
    "dataset.root=/some where",
    "backbone.hidden=[30]",
    "+metrics.worst._target_=a.b",
    "trust=[a]",
)


@pytest.mark.parametrize("row", ROWS[::7], ids=lambda row: row.name)
def test_the_short_way_to_a_configuration_gives_that_of_the_command_line(row):
    values = ("epochs=2.5", "optimizer.lr=0.03", "seed=4")
    ours = Configurations(SHARED).of(row.command, (*row.words, *values))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        theirs = plain(compose(row.command, overrides=[*SHARED, *row.words, *values]))
    quiet = {"pictures", "progress", "baselines"}
    assert {key: ours[key] for key in ours if key not in quiet} == {
        key: theirs[key] for key in theirs if key not in quiet
    }
    assert folder_of(ours) == folder_of(theirs)


def test_words_of_merging_alone_are_not_given_to_training():
    configurations = Configurations(("batch_norm_samples=30", "protocol=published", "epochs=2"))
    assert configurations.of("run", ("strategy=er",))["epochs"] == 2
    assert configurations.of("merge", ())["batch_norm_samples"] == 30
    assert configurations.command("run", ("strategy=er",), [0, 1]) == "python run.py epochs=2 strategy=er -m seed=0,1"
    merge = configurations.command("merge", ("run=a/seed${seed}",), [0])
    assert merge == ("python merge.py batch_norm_samples=30 protocol=published epochs=2 'run=a/seed${seed}' seed=0")


@pytest.mark.parametrize("seeds", [[], [0, 0]])
def test_seeds_are_some_and_different(seeds):
    with pytest.raises(ValueError, match="a study needs one seed or more, each once"):
        words.check_seeds(seeds)


def test_a_study_keeps_its_folder_where_only_places_and_pictures_differ():
    assert words.named(("progress=false", "dataset=mnist", "dataset.root=a")) == words.named(("dataset=mnist",))
    assert words.named(("batch_size=20",)) != words.named(())
    pictures = [("dataset=image_folder", f"dataset.root={place}") for place in "ab"]  # other data
    assert words.named(pictures[0]) != words.named(pictures[1])


def test_options_of_the_user_are_found_and_are_in_the_commands(tmp_path):
    (tmp_path / "strategy").mkdir()
    text = (ROOT / "conf" / "strategy" / "er.yaml").read_text()
    (tmp_path / "strategy" / "my_er.yaml").write_text(text.replace("name: er", "name: my_er"))
    read = Options.read(DEFAULTS | {"strategies": ["er", "my_er"]}, str(tmp_path))
    assert read.strategies == ["er", "my_er"]
    configurations = Configurations((), str(tmp_path))
    assert configurations.of("run", ("strategy=my_er",))["strategy"]["name"] == "my_er"
    command = configurations.command("run", ("strategy=my_er",), [0])
    assert command == f"python run.py --config-dir {tmp_path} strategy=my_er seed=0"


def test_a_strategy_without_a_memory_is_the_same_under_all_budgets():
    facts = Facts(1000, [200] * 5, 80, False, 0.1, True, None, MEMORIES | {"ewc": False}, FUSIONS)
    rows = {row.name: row for row in rows_of(Options.read(DEFAULTS | {"strategies": ["er", "ewc"]}), facts)}
    assert rows["ewc"].every_budget and not rows["er"].every_budget


def test_everything_stored_is_that_of_all_tasks():
    (row,) = (row for row in ROWS if row.name == "er, everything stored")
    assert "buffer.capacity=1000" in row.words and row.all_stored


def test_averages_of_batch_norm_networks_are_recalibrated_on_as_many_samples():
    facts = Facts(1000, [200] * 5, 80, True, 0.1, True, None, MEMORIES, FUSIONS)
    rows = {row.name: row for row in rows_of(Options.read(DEFAULTS), facts)}
    found = samples_words(rows["er, averaged over tasks"], 30, facts)
    assert found == ("buffer.capacity=30", "batch_norm_samples=30")
    assert samples_words(rows["er, averaged over steps"], 30, facts) == ("buffer.capacity=30",)
