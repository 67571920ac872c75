"""Command lines with mistakes, and some that only look odd: one true line each, before any data is read.

Each runs in this process through run.py or merge.py as they are.
"""

import os
import runpy
import sys

import pytest
from support import ROOT, command

from cl.build import options_of
from cl.datasets.base import Dataset
from cl.run import cli
from cl.run.folder import plain, run_folder
from cl.run.mistakes import one_line
from cl.run.trainer import Trainer

# The command line, and every part that its line must have: key, value, what is valid.
MISTAKES = [
    ("lr=0.1", "unknown option lr (did you mean optimizer.lr?)"),
    ("buffer_size=200", "unknown option buffer_size (here it is buffer.capacity)"),
    ("strategy=Naive", "strategy=Naive does not exist (here it is finetune)"),
    (
        "+experiment=split_mnist_derpp buffer.capacity=200 strategy=er dataset.root=x",
        "unknown option strategy.alpha;", "it is set by +experiment=split_mnist_derpp: take it out with ~strategy.",
    ),
    ("strategy=ER", "did you mean er?"),
    # words and numbers outside the groups
    ("overwrite=maybe", "overwrite must be true or false, got 'maybe'"),
    ("compile=sure", "compile must be true or false, got 'sure'"),
    ("progress=2", "progress must be true or false, got 2"),
    ("channels_last=x", "channels_last must be true or false, got 'x'"),
    ("debug=maybe", "debug must be true or false, got 'maybe'"),
    ("batch_size=true", "batch_size must be a whole number of at least 1, got true"),
    ("gradient_accumulation_steps=0", "gradient_accumulation_steps must be a whole number of at least 1, got 0"),
    ("eval_batch_size=x", "eval_batch_size must be a whole number of at least 1, got 'x'"),
    ("log_interval=0", "log_interval must be a whole number of at least 1, got 0"),
    ("seed=true", "seed must be a whole number of at least 0, got true"),
    ("seed=-1", "seed must be a whole number of at least 0, got -1"),
    ("seed=1.5", "seed must be a whole number of at least 0, got 1.5"),
    ("epochs=null", "epochs must be a number above 0 and of at most 1000000 or a list", "got null"),
    ("epochs=[1,x]", "epochs must be", "above 0", "got [1, 'x']"),
    ("epochs=[1,2]", "epochs has 2 numbers, but there are 5 stages"),
    ("steps=0", "steps must be a whole number of at least 1 or null, got 0"),
    ("clip_norm=abc", "clip_norm must be a number above 0 or null, got 'abc'"),
    ("clip_norm=nan", "clip_norm must be a number above 0 or null, got nan"),
    ("output=", "output must be text that is not empty, got ''"),
    ("output=5", "output must be text that is not empty, got 5", "'output=\"5\"'"),
    ("pictures=gif", "pictures must be a list (each png, pdf or svg), got 'gif'"),
    ("device=gpu", "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
    ("threads=1.0", "threads must be a whole number of at least 1 or auto, got 1.0"),
    ("precision=fp8", "precision must be fp32, bf16 or fp16, got 'fp8'"),
    ("lr_scaling=linaer", "lr_scaling must be none, linear or sqrt, got 'linaer' (did you mean linear?)"),
    ("batch_norm=avg", "batch_norm must be rank0 or average, got 'avg'"),
    ("optimizer_state=kept", "optimizer_state must be keep, reset or epoch, got 'kept' (did you mean keep?)"),
    ("model_state=epoch", "model_state must be keep or reset, got 'epoch'"),
    ("mixing.mixup=-1", "mixing.mixup must be a number of at least 0, got -1"),
    ("mixing=0.2", "mixing has several values (mixup, cutmix)", "mixing=0.2"),
    ("reduce.predivide=0", "reduce.predivide must be a number above 0, got 0"),
    ("reduce.operation=sum", "reduce.operation must be average or adasum, got 'sum'"),
    ("launcher.np=2", "launcher=none starts no ranks, got launcher.np=2", "launcher=horovod or launcher=torchrun"),
    ("launcher.retries=3", "launcher=none starts no ranks, got launcher.retries=3: choose", "launcher=torchrun"),
    ("launcher=torchrun launcher.np=two", "launcher.np must be a whole number of at least 1, got 'two'"),
    # values inside the groups
    ("optimizer.lr=abc", "optimizer.lr must be a number of at least 0, got 'abc'"),
    ("optimizer.lr=true", "optimizer.lr must be a number of at least 0, got true"),
    ("optimizer.lr=-0.1", "optimizer.lr must be a number of at least 0, got -0.1"),
    ("optimizer.lr=${foo}", "optimizer.lr: Interpolation key 'foo' not found"),
    ("optimizer=adam optimizer.betas=[0.9]", "optimizer.betas must be a list of 2", "got [0.9]"),
    ("optimizer.nesterov=true", "optimizer.nesterov=True: Nesterov momentum requires a momentum"),
    ("strategy.alpha=true", "strategy.alpha must be a number of at least 0, got true"),
    ("strategy.alpha=nan", "strategy.alpha must be a number of at least 0, got nan"),
    ("strategy.alpha=-1", "strategy.alpha must be a number of at least 0, got -1"),
    ("strategy.memory=false", "strategy.memory=false is no option", "strategy=derpp"),
    ("backbone.hidden=[a]", "backbone.hidden must be a list (each a whole number of at least 1), got ['a']"),
    ("scenario.increment=[2,x]", "scenario.increment must be", "a list (each a whole number)", "got [2, 'x']"),
    ("schedule=multistep schedule.milestones=[a]", "schedule.milestones must be a list (each a number above 0), got"),
    ("dataset.augment=flipp", "dataset.augment must be a list (each crop, flip, resized_crop or", "got 'flipp'"),
    ("dataset.std=[0]", "dataset.std must be a list (each a number above 0) or null, got [0]"),
    ("dataset=mnist dataset.root=5", "dataset.root must be text, got 5", "'dataset.root=\"5\"'"),
    ("dataset=mnist dataset.download=maybe", "dataset.download must be true or false, got 'maybe'"),
    ("buffer.capacity=true", "buffer.capacity must be a positive number of records", "got True"),
    ("timeout=-1", "timeout must be a number above 0, got -1"),
    ("logger=wandb logger.mode=offline logger.tags=[1]", "logger.wandb.tags must be a list (each text), got [1]"),
    ("logger=[csv,wandb] logger.wandb.mod=offline", "unknown option logger.wandb.mod (did you mean mode?); valid for"),
    ("logger=[csv,tensorbord]", "logger=tensorbord does not exist (did you mean tensorboard?); valid: csv"),
    ("logger=[]", "logger must be the name of one option or of several, [csv,wandb], got []; valid: csv"),
    ("~logger.csv", "~logger.csv takes out what is needed: set another value, logger=VALUE"),
    ("logger.csv=wandb", "logger.csv must be a logger with its _target_, got 'wandb'"),
    ("backbone=timm", "backbone.model must be given"),
    ("buffer.capacity=0", "buffer.capacity must be a positive number of records"),
    ("buffer.insertion=fifo", "buffer.insertion=fifo does not exist; valid: candidates"),
    ("scenario.num_tasks=11", "scenario.num_tasks=11, but the data set has 10 classes"),
    ("scenario.num_tasks=4", "10 classes do not divide into 4 equal tasks"),
    ("dataset=mnist dataset.root=/nowhere", "no MNIST in /nowhere: expected the folder /nowhere/MNIST"),
    ("dataset=image_folder dataset.root=/nowhere", "no folder /nowhere/train"),
    ("dataset=image_folder", "dataset.root must be given"),
    ("backbone=timm backbone.model=resnet19", "timm has no model 'resnet19'; valid names are"),
    ("backbone=timm backbone.model=vit_tiny_patch16_224", "does not take pictures"),
    ("strategy.replay_batch_size=0", "replay_batch_size must be a whole number of at least 1, got 0"),
    ("+strategy.gamma=1", "unknown option strategy.gamma"),
    ("+optimizer.momentun=1", "unknown option optimizer.momentun (did you mean momentum?)"),
    ("device=cuda:99", "device=cuda:99 cannot be used here", "valid: auto, cpu"),
    ("output=README.md", "is a file; choose output=PATH"),
    # names of options
    ("strategy=derp", "strategy=derp does not exist (did you mean derpp?); valid: agem, bic, cls_er, der, derpp"),
    ("strategy=null", "strategy must be the name of one option, got null; valid: agem"),
    ("strategy=[er,derpp]", "strategy must be the name of one option, got [er,derpp]"),
    ("scenario=class20", "scenario=class20 does not exist; 20 tasks are scenario=class10 scenario.num_tasks=20"),
    ("scenario=task7", "7 tasks are scenario=task5 scenario.num_tasks=7"),
    ("scenario=permuted3", "3 tasks are scenario=permuted10 scenario.num_tasks=3"),
    ("scenario=skewed3", "scenario=skewed3 does not exist (did you mean skewed2?)"),
    ("experiment=split_mnist_er", "an experiment is added, with a plus: +experiment=split_mnist_er"),
    ("+experiment=typo", "experiment=typo does not exist", "valid: blurry_cifar10"),
    ("+experiment=split_mnist_er buffer.capacity=300", "no published replay for buffer.capacity=300", "200, 500, 5120"),
    # keys that do not exist, are there already, or are taken out
    ("sed=1", "unknown option sed (did you mean seed?); valid: average"),
    ("+batchsize=32", "unknown option batchsize (did you mean batch_size?); valid: average"),
    ("++foo.bar=1", "unknown option foo; valid: average"),
    ("+reduce.x=1", "unknown option reduce.x; valid: operation, fp16, predivide"),
    ("+launcher.x=1", "unknown option launcher.x; valid: name, np"),
    ("strategy=finetune +buffer.foo=1", "unknown option buffer.foo; valid: capacity"),
    ("buffer.capcity=5", "unknown option buffer.capcity (did you mean capacity?); valid for buffer=native: candidates"),
    ("buffer.admission=reservoir", "error: buffer.admission is now buffer.insertion"),
    ("++buffer.draw=uniform", "buffer.draw is now buffer.sampling"),
    ("strategy=gdumb ~buffer.admission", "buffer.admission is now buffer.insertion"),
    ("merge passes=2", "passes is now gradient_accumulation_steps"),
    ("strateggy.alpha=1", "unknown option strateggy.alpha: there is no strateggy (did you mean strategy?)"),
    ("seed.x=1", "unknown option seed.x: seed is a value without options"),
    ("logger.mode=offline", "unknown option logger.wandb.mode: add this logger, logger=wandb, or with others"),
    ("fusion=avg", "fusion=avg is for merge.py"),
    ("+seed=1", "seed is there already, so it is set without a plus: seed=1"),
    ("+strategy=er", "strategy is there already, so it is set without a plus: strategy=er"),
    ("+published=1", "unknown option published"),
    ("merge fusion=avg,ot,curve fusion.plane=0 -m", "fusion.plane", "curve"),
    ("~seed", "~seed takes out what is needed: set another value, seed=VALUE"),
    ("~strategy", "~strategy takes out what is needed"),
    ("strategy=er ~strategy.replay_from", "~strategy.replay_from takes out what is needed"),
    ("~optimizer.lr", "~optimizer.lr takes out what is needed"),
    ("~sed", "~sed: there is no sed to take out (did you mean seed?)"),
    # the way in which they are written
    ("seed=0,1", "seed=0,1 has several values: add -m to sweep over them"),
    ("seed=range(3)", "seed=range(3) has several values: add -m"),
    ("--seed 1", "unknown flag --seed: settings have no dashes, write seed=1"),
    ("-seed=1", "unknown flag -seed: settings have no dashes, write seed=1"),
    ("seed 1", "cannot read the argument 'seed'", "write seed=1"),
    ("seed: 1", "cannot read the argument 'seed:'", "write seed=1"),
    ("seed = 1", "cannot read the argument 'seed'", "write seed=1"),
    ("strategy er", "cannot read the argument 'strategy'", "write strategy=er"),
    ("epochs=[1, 2]", "cannot read the argument 'epochs=[1,': a list is written without spaces"),
    ("epochs=[1,2", "cannot read the argument 'epochs=[1,2': a bracket is not closed"),
    ("--cfg jobs", "--cfg must be job, hydra or all, got 'jobs' (did you mean job?)"),
    ("--multirunn seed=0,1", "unknown flag --multirunn (did you mean --multirun?)"),
    # sweeps
    ("dataset=digits,mnist dataset.root=/x -m", "unknown option dataset.root; valid for dataset=digits: ", "mnist"),
    ("buffer.capacity=0 seed=0,1 -m", "job seed=0: buffer.capacity must be a positive number", "got 0"),
    # merge.py
    ("merge fusion.t=2", "unknown option fusion.t; fusion=avg has no options"),
    ("merge fusion.at=1", "unknown option fusion.at; fusion=avg has no options; fusion=curve can take at"),
    ("merge fusion=avgg", "fusion=avgg does not exist (did you mean avg?); valid: adamerging, avg, curve"),
    ("merge fusion=ties fusion.keep=abc", "fusion.keep must be a number above 0 and of at most 100, got 'abc'"),
    ("merge weighting=sample", "weighting must be uniform or samples, got 'sample' (did you mean samples?)"),
    ("merge sequential=maybe", "sequential must be true or false, got 'maybe'"),
    ("merge batch_norm_samples=0", "batch_norm_samples must be a whole number of at least 2, got 0"),
    ("merge finetune_epochs=x", "finetune_epochs must be a number above 0 and of at most 1000000, got 'x'"),
    ("merge baselines=derp", "baselines=derp does not exist (did you mean derpp?); valid: agem"),
    ("merge checkpoints=", "checkpoints must be a list (each text that is not empty) or null, got ''"),
    ("merge run=", "run must be text that is not empty or null, got ''"),
    ("merge ++basline=[]", "unknown option basline (did you mean baselines?)"),
    ("merge +protocol.x=1", "unknown option protocol.x; valid: name"),
]  # fmt: skip

# The command line, the key to look at and the value that it has in each job; a group's as its component is given it.
RIGHT = [
    ("overwrite=no", "overwrite", [False]),
    ("overwrite=off", "overwrite", [False]),
    ("compile=No progress=yes", "compile", [False]),
    ("seed='7'", "seed", [7]),
    ("seed=1_0", "seed", [10]),
    ("pictures=pdf", "pictures", [["pdf"]]),
    ("epochs=[1,2,3,4,5]", "epochs", [[1, 2, 3, 4, 5]]),
    ("clip_norm=1", "clip_norm", [1.0]),
    ("++seed=3", "seed", [3]),
    ("optimizer.lr=1e-3", "optimizer.lr", [0.001]),
    ("optimizer.lr='1e-3'", "optimizer.lr", [0.001]),
    ("backbone.hidden=100", "backbone.hidden", [[100]]),
    ("dataset.augment=flip", "dataset.augment", [["flip"]]),
    ("buffer.capacity=10%", "buffer.capacity", ["10%"]),
    ("seed=1,2 -m strategy=er", "seed", [1, 2]),
    ("dataset=mnist,kmnist dataset.root=/x/y -m", "dataset.root", ["/x/y", "/x/y"]),
    ("strategy=er,derpp -m strategy.replay_batch_size=5", "strategy.replay_batch_size", [5, 5]),
    ("optimizer=adam,adamw -m optimizer.betas=[0.5,0.9]", "optimizer.betas", [[0.5, 0.9], [0.5, 0.9]]),
    ("+experiment=split_mnist_er,split_mnist_joint dataset.root='/a b' -m", "dataset.root", ["/a b", "/a b"]),
    ("+experiment=[split_cifar10,gdumb_learner]", "batch_size", [16]),
    ("+experiment=skewed_mnist strategy=derpp ~strategy.init", "strategy.beta", [0.5]),
    ("+_width=7 backbone.hidden='${_width}'", "backbone.hidden", [[7]]),
    ("merge fusion=dare,ties -m fusion.keep=30", "fusion.keep", [30.0, 30.0]),
    ("merge baselines=er", "baselines", [["er"]]),
    ("merge checkpoints=a.pt", "checkpoints", [["a.pt"]]),
]  # fmt: skip

# Mistakes that torch or a library on top of it has to tell.
NEED_TORCH = {
    "optimizer.nesterov=true", "strategy.memory=false", "epochs=[1,2]", "backbone=timm backbone.model=resnet19",
    "backbone=timm backbone.model=vit_tiny_patch16_224", "device=cuda:99",
}  # fmt: skip
LEFT = ("README.md", "multirun", ".hydra", "multirun.yaml")  # what a sweep of Hydra's leaves, and the file of a mistake


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """A function from a command line to its exit status and what it wrote to the error stream."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")

    def run(line: str) -> tuple[int, str]:
        program, words = ("merge.py", line[6:]) if line.startswith("merge ") else ("run.py", line)
        monkeypatch.setattr(sys, "argv", [str(ROOT / program), *split(words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(sys.argv[0], run_name="__main__")
        return ended.value.code, capsys.readouterr().err

    yield run
    os.environ.pop("HYDRA_FULL_ERROR", None)


def split(words: str) -> list[str]:
    """Arguments by their spaces, but for those between quotes, which stay: Hydra reads them."""
    parts = words.split("'")
    for place in range(1, len(parts), 2):
        parts[place] = parts[place].replace(" ", "\0")
    return [word.replace("\0", " ") for word in "'".join(parts).split()]


# All others are in test_start.py, which runs them without torch.
@pytest.mark.parametrize("case", [case for case in MISTAKES if case[0] in NEED_TORCH], ids=lambda case: case[0])
def test_a_mistake_is_one_true_line_before_anything_is_read(call, monkeypatch, tmp_path, case):
    line, *parts = case

    def fail(*_, **__):
        pytest.fail("the mistake was found too late")

    monkeypatch.setattr(Dataset, "load", fail)
    monkeypatch.setattr(Trainer, "train", fail)
    (tmp_path / "README.md").write_text("")
    status, said = call(line)
    assert status == 1
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert [part for part in parts if part not in said] == [], said
    assert [path for path in tmp_path.rglob("*") if path.name not in LEFT] == []


@pytest.mark.parametrize("line, key, expected", RIGHT, ids=[case[0] for case in RIGHT])
def test_what_only_looks_odd_is_taken_as_it_is_meant(call, monkeypatch, line, key, expected):
    configs = []
    monkeypatch.setattr(cli, "run_job", lambda config, run=None: configs.append(plain(config)))
    assert call(line) == (0, "")
    group, _, name = key.partition(".")
    values = [
        options_of(config[group], group)[name] if name and name != "capacity" else config[group] for config in configs
    ]
    values = [value["capacity"] if name == "capacity" else value for value in values]
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


def test_every_spelling_of_a_value_is_one_run(compose_config):
    def folder(*overrides):
        return run_folder(plain(compose_config(*overrides)))

    assert folder("seed=1") == folder("seed='1'")
    assert folder("clip_norm=1", "mixing.mixup=0") == folder("clip_norm=1.0", "mixing.mixup='0'")
    assert folder("compile=no", "threads='2'") == folder("compile=false", "threads=2")
    assert folder("+_mine=3") == folder()


def test_a_mistake_ends_a_process_with_status_1_and_without_a_traceback(tmp_path):
    done = command("experiment=split_mnist_er", f"output={tmp_path}")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "+experiment=split_mnist_er" in done.stderr


@pytest.mark.parametrize("command, without", [("run", ("fusion", "protocol", "class_lists")), ("merge", ("launcher",))])
def test_help_lists_the_groups_of_its_command_only(call, capsys, monkeypatch, command, without):
    shown = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: shown.append(" ".join(map(str, words))))
    call(f"{'merge ' if command == 'merge' else ''}--help")
    groups = "\n".join(shown).partition("== This command's")[0].splitlines()
    listed = {line.partition(":")[0] for line in groups if ": " in line}
    assert {"strategy", "dataset", "experiment"} <= listed and not listed & set(without)


def test_an_option_that_the_user_has_typed_is_not_laid_on_the_experiment():
    error = ValueError("unknown option strategy.alpha; valid: none")
    for typed in ("strategy.alpha=1", "+strategy.alpha=1", "++strategy.alpha=1"):
        assert "take it out" not in one_line(error, "run", ["+experiment=split_mnist", typed])
    assert "take it out" in one_line(error, "run", ["+experiment=split_mnist"])
