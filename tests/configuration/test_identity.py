"""What names a run: recorded commands, spellings of one value, moved modules, new options, versions."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cl import versions
from cl.configuration import identity, trust
from cl.configuration.arguments import respelled
from cl.configuration.composing import register_resolvers
from cl.run.folder import finished_run, plain, run_folder

LINES = (Path(__file__).parent / "identities.txt").read_text().splitlines()[1:]
RECORDED = [(command, *line.strip().split(" ", 1)) for command, line in zip(LINES[::2], LINES[1::2])]


@pytest.fixture
def config_of(compose_config):
    register_resolvers()

    def make(command: str) -> dict:
        script, *overrides = command.split(" ")
        overrides = map(respelled, overrides)  # as the command line does it
        return plain(compose_config(*overrides, name=script.removesuffix(".py")))

    return make


@pytest.mark.parametrize("command, name, words", RECORDED, ids=[command for command, *_ in RECORDED])
def test_recorded_commands_keep_their_identity(config_of, command, name, words):
    config = config_of(command)
    assert " ".join(identity.as_text(identity.words(config))) == words
    assert identity.config_hash(config) == name


def test_results_of_the_time_of_one_logger_are_read(config_of):
    config = config_of("run.py strategy=er")
    node = {"name": "wandb", "_target_": "cl.reporting.loggers.WandbLogger", "mode": "offline"}
    assert identity.words(config | {"logger": node}) == identity.words(config)


def test_the_table_is_long_enough_and_tells_different_runs_apart():
    assert len(RECORDED) >= 30
    by_words = {}
    for _, name, words in RECORDED:
        assert by_words.setdefault(words, name) == name
    assert len(set(by_words.values())) == len(by_words)


@pytest.mark.parametrize("one, other", [
    ("optimizer.lr=1", "optimizer.lr=1.0"),
    ("optimizer.lr=0.01", "optimizer.lr='1e-2'"),
    ("optimizer.nesterov=yes", "optimizer.nesterov=true"),
    ("dataset.augment=flip", "dataset.augment=[flip]"),
    ("strategy=derpp strategy.alpha=0.5", "strategy=derpp"),
    ("scenario=class10", "scenario=class5 scenario.num_tasks=10"),
    ("strategy=finetune buffer.capacity=7", "strategy=finetune"),
    ("timeout=5", "timeout=50"),
    ("loader.workers=2", "loader.workers=4"),
    ("dataset=mnist dataset.root=/here", "dataset=mnist dataset.root=/there"),
    ("seed=1 output=elsewhere", "seed=2 overwrite=true"),
])  # fmt: skip
def test_one_run_in_two_spellings(config_of, one, other):
    assert identity.words(config_of(f"run.py {one}")) == identity.words(config_of(f"run.py {other}"))


@pytest.mark.parametrize("one, other", [
    ("optimizer.lr=0.01", "optimizer.lr=0.02"),
    ("strategy=er", "strategy=derpp"),
    ("buffer=native", "buffer=reference"),
    ("loader=workers", "loader=dali"),
    ("dataset=image_folder dataset.root=/here", "dataset=image_folder dataset.root=/there"),
    ("launcher=horovod launcher.np=2", "launcher=horovod launcher.np=1"),
    ("epochs=[1,1,1,1,2]", "epochs=[1,1,1,2,1]"),
    ("backbone=timm backbone.model=resnet18 +backbone.options.drop_rate=0.1", "backbone=timm backbone.model=resnet18"),
    ("backbone=efficientnetv2 ~backbone.options.drop_rate", "backbone=efficientnetv2"),
    ("strategy._target_=mine.Er trust=[mine]", "strategy._target_=cl.strategies.er.Er"),
])  # fmt: skip
def test_two_runs(config_of, one, other):
    assert identity.config_hash(config_of(f"run.py {one}")) != identity.config_hash(config_of(f"run.py {other}"))


@pytest.mark.parametrize("own", [
    {"name": "birds"},  # our class under a name of the user
    {"name": "mnist", "_target_": "mine.Birds"},  # a class of the user under a name of ours
])  # fmt: skip
def test_the_folder_of_a_data_set_of_the_user_tells_runs_apart(config_of, own):
    config = config_of("run.py dataset=image_folder dataset.root=/birds")
    here, there = (config | {"dataset": config["dataset"] | own | {"root": root}} for root in ("/here", "/there"))
    assert identity.words(here)["dataset.root"] == "/here"
    assert identity.config_hash(here) != identity.config_hash(there)


@pytest.fixture
def changed_conf(tmp_path, monkeypatch):
    """A function that edits every file of a copy of conf/, which then is what identities are taken from."""

    def change(pattern: str, replacement: str) -> int:
        copy = tmp_path / "conf"
        shutil.copytree(identity.CONF, copy)
        changed = 0
        for file in copy.rglob("*.yaml"):
            text, count = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
            file.write_text(text)
            changed += count
        for module in (identity, trust):
            monkeypatch.setattr(module, "CONF", copy)
        for cached in (identity._raw, identity._file, identity._neutral_keys, trust.ours):
            cached.cache_clear()
        return changed

    yield change
    for cached in (identity._raw, identity._file, identity._neutral_keys, trust.ours):
        cached.cache_clear()


@pytest.fixture
def composed_from(tmp_path):
    def make(*overrides: str) -> dict:
        with initialize_config_dir(str(identity.CONF), version_base="1.3"):
            return plain(compose("run", [f"output={tmp_path / 'multirun'}", *overrides]))

    return make


OVERRIDES = ("strategy=er", "buffer.capacity=500", "scenario=task5", "optimizer=adam", "schedule=cosine")


def test_a_module_can_move(composed_from, changed_conf):
    before = identity.config_hash(composed_from(*OVERRIDES))
    assert changed_conf(r"_target_: cl\.", "_target_: cl.elsewhere.") > 50
    config = composed_from(*OVERRIDES)
    assert config["strategy"]["_target_"].startswith("cl.elsewhere.")
    assert identity.config_hash(config) == before


def test_an_option_can_be_added_at_its_neutral_value(composed_from, changed_conf):
    before = identity.config_hash(composed_from(*OVERRIDES))
    assert changed_conf(r"^replay_batch_size: .*$", r"\g<0>\nadded_later: 3") >= 3
    assert composed_from(*OVERRIDES)["strategy"]["added_later"] == 3
    assert identity.config_hash(composed_from(*OVERRIDES)) == before
    assert identity.config_hash(composed_from(*OVERRIDES, "strategy.added_later=4")) != before


def test_a_component_whose_numbers_change_raises_its_version(composed_from, changed_conf):
    before = composed_from(*OVERRIDES)
    assert changed_conf("^name: er$", "name: er\nversion: 2") == 1
    after = composed_from(*OVERRIDES)
    assert identity.words(after) == identity.words(before) | {"strategy.version": 2}


def test_the_program_has_versions_of_what_no_component_decides(config_of, monkeypatch):
    runs, merges = config_of("run.py strategy=er"), config_of("merge.py")
    before = identity.words(runs), identity.words(merges)
    monkeypatch.setitem(identity.VERSIONS, "merging", 2)
    assert identity.words(runs) == before[0]
    assert identity.words(merges) == before[1] | {"merging.version": 2}


def test_a_run_that_another_version_finished_says_so(compose_config, capsys):
    config = compose_config("strategy=er")
    folder = run_folder(plain(config))
    folder.mkdir(parents=True)
    here = versions.this()
    for made, said in (
        (here, ""),
        ({"remerge": "0.1.0", "git_commit": "abc1234"}, "made with remerge 0.1.0, commit abc1234; this is remerge "),
        ({"remerge": here["remerge"], "git_commit": "abc1234"}, "commit abc1234; this is remerge "),
    ):
        (folder / "results.json").write_text(json.dumps({"versions": made}))
        assert finished_run(config) == folder
        line = capsys.readouterr().out
        assert line.startswith(f"finished before: {folder}") and (said in line if said else "made with" not in line)
