"""Where networks come from: in the order of their tasks, with the tasks that they say, and mistakes before training."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support import ROOT

from cl.atomic import write_json
from cl.build import build
from cl.configuration.settings import MERGE_KEYS
from cl.datasets.base import Dataset
from cl.run import checkpoint
from cl.run import experiment as training
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.run.trainer import Trainer
from merging import checks, sources
from merging import run as merging_run
from merging.fusion import Models
from merging.vectors.magmax import Magmax

SMALL = ("epochs=1", "progress=false", "pictures=[]", "scenario=class2", "backbone.hidden=[8]")


def reader_of(config) -> sources.Reader:
    base = plain(OmegaConf.create({key: value for key, value in config.items() if key not in MERGE_KEYS}))
    with Session(make_plan(base)) as session:
        return sources.Reader(session)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of one network for each of two tasks."""
    folder = tmp_path_factory.mktemp("trained")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return training.run(compose("run", [*SMALL, "strategy=independent", f"output={folder}"]))


@pytest.fixture
def merge_config(compose_config):
    def make(*overrides: str):
        return compose_config(*SMALL, "baselines=[]", *overrides, name="merge")

    return make


def results_of(config) -> dict:
    return json.loads((merging_run.run(config)[-1] / "results.json").read_text())


def copies(folder: Path, names: dict[str, Path], forget: bool = False) -> list[str]:
    """Copies of checkpoints by new names; with `forget` of their weights alone."""
    made = []
    for name, path in names.items():
        made.append(str(folder / name))
        if forget:
            torch.save(torch.load(path)["model"], folder / name)
        else:
            shutil.copyfile(path, folder / name)
    return made


def files_of(paths: list[str]) -> str:
    return f"checkpoints=[{','.join(paths)}]"


def test_networks_of_102_tasks_come_in_the_order_of_their_numbers(merge_config, tmp_path):
    reader = reader_of(merge_config("scenario=permuted10", "scenario.num_tasks=102"))
    network = build(reader.config["backbone"], "backbone", sample_shape=(1, 8, 8), num_outputs=10)
    for stage in reversed(range(102)):
        with torch.no_grad():
            for weight in network.parameters():
                weight.fill_(stage)
        checkpoint.save_task(tmp_path, stage, network, {"tasks": [stage], "config": reader.config})
    (tmp_path / "task_copy.pt").write_text("not one of them")
    (tmp_path / "results.json").write_text(json.dumps({"kind": "run", "config": reader.config}))
    source = reader.of_run(tmp_path)
    assert [state["fc1.weight"][0, 0].item() for state in source.states] == list(range(102))
    assert source.tasks == [[task] for task in range(102)]
    assert source.names[99:] == [str(tmp_path / f"task_{number}.pt") for number in (99, 100, 101)]
    look = reader.of_run(tmp_path, look=True)
    assert all(value.is_meta for state in look.states for value in state.values()) and look.tasks == source.tasks
    (tmp_path / "task_101.pt").unlink()
    (tmp_path / "task_100.pt").rename(tmp_path / "task_101.pt")
    with pytest.raises(
        ValueError, match="lacks networks: expected task_00.pt, task_01.pt ... without a gap, found 0, 1, 2"
    ):
        reader.of_run(tmp_path)
    (tmp_path / "task_101.pt").rename(tmp_path / "task_100.pt")
    shutil.copyfile(tmp_path / "task_07.pt", tmp_path / "task_11.pt")
    with pytest.raises(ValueError, match="task_11.pt holds the network after stage 7, but its name says 11"):
        reader.of_run(tmp_path)


def test_each_row_is_that_of_the_network_of_its_file(merge_config, monkeypatch):
    """Names without leading zeros have with eleven tasks the order that those of more than a hundred have."""
    monkeypatch.setattr(checkpoint, "task_file", lambda folder, stage: folder / f"task_{stage}.pt")
    config = merge_config("scenario=permuted10", "scenario.num_tasks=11", "epochs=1", "steps=120")
    folder = merging_run.run(config)[-1]
    (run,) = folder.parent.parent.glob("independent_*/seed0")
    matrix = json.loads((folder / "results.json").read_text())["model_accuracy_matrix"]
    base = plain(OmegaConf.create({key: value for key, value in config.items() if key not in MERGE_KEYS}))
    with Session(make_plan(base)) as session:
        tasks, _ = session.load_tasks()
        for row in range(11):
            session.model.load_state_dict(torch.load(run / f"task_{row}.pt")["model"])
            for column in range(11):
                samples = tasks.testing(column, session.device)
                with torch.no_grad():
                    right = session.model(samples.x.float() / 255).argmax(1) == samples.y
                assert matrix[row][column] == pytest.approx(right.double().mean().item(), abs=1e-9)
    diagonal = sum(matrix[i][i] for i in range(11)) / 11
    assert diagonal > sum(map(sum, matrix)) / 121 + 0.1  # each knows its own task best


def test_files_say_their_tasks_whatever_their_order_and_names(merge_config, trained, tmp_path, capsys):
    first, second = (trained / f"task_{task:02d}.pt" for task in range(2))
    right = results_of(merge_config("fusion=regmean", files_of([str(first), str(second)])))
    swapped = copies(tmp_path, {"one.pt": second, "two.pt": first})
    content = results_of(merge_config("fusion=regmean", files_of(swapped)))
    assert content["accuracy_matrix"] == right["accuracy_matrix"]
    assert content["model_accuracy_matrix"] == right["model_accuracy_matrix"][::-1]
    assert "does not name the tasks" not in capsys.readouterr().out
    # of weights alone it is not known; by their place they would be of each other's task
    alone = copies(tmp_path, {"three.pt": second, "four.pt": first}, forget=True)
    guessed = results_of(merge_config("fusion=regmean", files_of(alone)))
    assert guessed["accuracy_matrix"] != right["accuracy_matrix"]
    said = capsys.readouterr().out
    assert f"{alone[0]} does not name the tasks of its network: assumed task 1, its position" in said


@pytest.mark.parametrize(
    "words",
    [
        {"tasks": ["mnist"], "config": {"dataset": "cifar10"}}, {"tasks": [1], "stage": "late"}, {"config": "a.yaml"},
        {"tasks": [7], "config": {"scenario": {"name": "class5"}, "seed": 3}},
    ],
)  # fmt: skip
def test_what_other_programs_write_beside_weights_means_nothing_here(merge_config, trained, tmp_path, words):
    state = torch.load(trained / "task_01.pt")["model"]
    torch.save({"state_dict": state, **words}, tmp_path / "a.pt")
    source = reader_of(merge_config()).of_files([str(tmp_path / "a.pt")], None)
    assert source.tasks == [None] and all(torch.equal(value, state[key]) for key, value in source.states[0].items())


def test_more_networks_than_tasks_are_merged_where_that_has_a_meaning(merge_config, trained, tmp_path, capsys):
    first, second = (trained / f"task_{task:02d}.pt" for task in range(2))
    known = copies(tmp_path, {"a.pt": first, "b.pt": first, "c.pt": second, "d.pt": second})
    pair = results_of(
        merge_config("fusion=regmean", "fusion.samples_per_task=100", files_of([str(first), str(second)]))
    )
    four = results_of(merge_config("fusion=regmean", "fusion.samples_per_task=100", files_of(known)))
    assert four["accuracy_matrix"] == pair["accuracy_matrix"] and len(four["model_accuracies"]) == 4
    unknown = copies(tmp_path, {f"{i}.pt": path for i, path in enumerate([first, second, first, second])}, forget=True)
    average = results_of(merge_config(files_of([str(first), str(second)])))
    assert results_of(merge_config(files_of(unknown)))["accuracy_matrix"] == average["accuracy_matrix"]
    assert "does not name the tasks of its network: assumed all tasks" in capsys.readouterr().out


def test_a_run_that_learned_everything_at_once_is_one_network_of_all_tasks(merge_config, compose_config):
    run = training.run(compose_config(*SMALL, "strategy=joint"))
    config = merge_config(f"run={run}")
    reader = reader_of(config)
    assert reader.of_run(run).tasks == [[0, 1]]
    content = results_of(config)
    assert content["accuracy_matrix"] == content["model_accuracy_matrix"]
    about = torch.load(merging_run.merge_folder(plain(config)) / "task_00.pt")
    assert about["tasks"] == [0, 1]


def test_an_opcm_of_a_run_one_network_at_a_time_is_that_of_all_at_once(merge_config):
    words = ("fusion=opcm", "scenario=class5")
    at_once, one_by_one = (merging_run.run(merge_config(*words, *more))[-1] for more in ((), ("running=true",)))
    states = [torch.load(folder / "task_04.pt")["model"] for folder in (at_once, one_by_one)]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-5), name


@pytest.mark.parametrize("fusion", ["opcm", "dare"])
def test_what_a_method_carries_on_is_kept_with_the_starts_of_the_networks(merge_config, fusion, monkeypatch):
    """Networks that never move: each start is the merge of all before, and is read from a file."""
    words = (f"fusion={fusion}", "scenario=class5", "strategy.init=merged", "running=true")
    folder = merging_run.run(merge_config(*words))[-1]
    (run,) = folder.parent.parent.glob("independent_*/seed0")
    kept = [torch.load(run / "merged" / f"task_{stage:02d}.pt") for stage in range(4)]
    if fusion == "opcm":
        assert [entry["carried"]["count"] for entry in kept] == [1, 2, 3, 4]
    last = torch.load(folder / "task_03.pt")["model"]  # the same merges, made anew from all networks
    assert all(torch.allclose(value, kept[3]["model"][name], atol=1e-6) for name, value in last.items())


def test_statistics_of_501_images_and_networks_whose_maps_have_one_pixel(compose_config):
    words = ("backbone=timm", "backbone.model=test_resnet", "scenario=class2", "batch_size=64", "epochs=1")
    content = results_of(
        compose_config(
            *words,
            "progress=false",
            "pictures=[]",
            "baselines=[]",
            "batch_norm_samples=501",
            "sequential=true",
            name="merge",
        )
    )
    assert content["unlabelled_samples"] == 501 + 2 * 250  # of the first task; equally many of both


VIT = (
    "backbone=timm", "backbone.model=vit_tiny_patch16_224", "+backbone.options.img_size=8",
    "+backbone.options.patch_size=4", "+backbone.options.depth=1",
)  # fmt: skip
MISTAKES = [
    # runs
    (["run=/nope"], "run=/nope is not the folder of a finished run"),
    (["run={run}/.."], "there is no results.json in it"),
    (["run={run}", "scenario=class5"], "was trained with scenario=class2, but this is scenario=class5"),
    (["run={run}", "scenario.class_order=[9,8,7,6,5,4,3,2,1,0]"], "class_order=null, but this is scenario.class_"),
    (["run={run}", "dataset=digits", "dataset.validation=0.2"], "dataset.validation=0.0, but this is"),
    (["run={run}", "dataset.mean=[0.5]", "dataset.std=[1]"], r"was trained with dataset.mean=\S+, but this is"),
    (["run={run}", "backbone.hidden=[9]"], r"task_00.pt has fc1.weight of shape \(8, 64\), in this network it is"),
    (["run={run}", "backbone=mnistnet"], "backbone=mnistnet needs pictures of at least 10x10"),
    (["run={run}", "backbone=timm", "backbone.model=test_resnet"], "task_00.pt has none of this network's tensors"),
    (["run={merged}"], "is the folder of a merge, expected that of a run of run.py"),
    (["run={gap}"], "lacks networks: expected task_00.pt, task_01.pt ... without a gap, found 1"),
    (["run={damaged}"], "task_01.pt cannot be read as weights"),
    (["run={permuted}", "scenario=permuted10", "scenario.num_tasks=2", "seed=1"], "seed=0, but this is seed=1: which"),
    (["run={run}", "checkpoints=[{a}]"], "give checkpoints or run, not both"),
    # files
    (["checkpoints=[]"], "names no file"),
    (["checkpoints=[/nope.pt,{a}]"], "/nope.pt: there is no such file"),
    (["checkpoints=[{a},/nope.pt]"], "/nope.pt: there is no such file"),
    (["checkpoints=[{a},{run}]"], "is not a file"),
    (["checkpoints=[{a},{nan}]"], "nan.pt has fc2.bias with numbers that are not finite"),
    (["checkpoints=[{a},{b}]", "backbone.hidden=[8,8]"], "task_00.pt lacks fc3.weight and 1 more tensor of"),
    (["checkpoints=[{a},{b}]", "backbone.bias=false"], "has fc1.bias and 1 more tensor, which this network does"),
    (["checkpoints=[{a},{b}]", "initial=/nope.pt", "fusion=ties"], "initial=/nope.pt: there is no such file"),
    (["checkpoints=[{a},{b}]", "initial={wide}", "fusion=ties"], r"initial=\S+wide.pt has fc1.weight of shape"),
    (["checkpoints=[{a},{b}]", "fusion=ties"], "fusion=ties needs models that .* a common init.* initial=FILE"),
    (["checkpoints=[{a},{b}]", "weighting=samples"], "weighting=samples needs the networks of a run"),
    (["checkpoints=[{plain},{plain},{plain},{plain}]", "fusion=regmean"], "its position, 4, is beyond the 2 tasks"),
    (["checkpoints=[{plain},{plain},{plain}]", "fusion=fisher"], "beyond the 2 tasks of scenario=class2"),
    (["checkpoints=[{plain},{plain},{plain}]", "fusion=curve"], "fusion=curve uses data of each network's task"),
    (["checkpoints=[{b},{a}]", "sequential=true"], "sequential=true merges task after task, and number 1 of checkpoi"),
    (["checkpoints=[{a},{a}]", "running=true"], "running=true merges task after task, and number 2 of checkpoints"),
    (["checkpoints=[{task7},{a}]"], "task7.pt was trained on task 8, but scenario=class2 has 2"),
    # methods
    (["run={run}", "scenario=class2", "fusion=slerp", "scenario.num_tasks=5"], "was trained with scenario=class2"),
    (["fusion=slerp", "scenario=class5"], "fusion=slerp merges 2 networks, got 5; set running=true"),
    (["checkpoints=[{a}]", "fusion=slerp"], "fusion=slerp merges 2 networks, got 1"),
    (["checkpoints=[{a},{b},{a}]", "fusion=slerp"], "fusion=slerp merges 2 networks, got 3"),
    *(
        ([f"fusion={name}", "strategy.init=independent"], f"fusion={name} needs models that .* a common init")
        for name in (
            "ties", "dare", "magmax", "opcm", "task_arithmetic", "wudi", "tsvm", "iso_c", "model_stock", "adamerging",
            "emr",
        )
    ),
    (["run={other_inits}", "fusion=magmax"], "fusion=magmax needs models that were trained from a common init"),
    *(
        ([f"fusion={name}", "weighting=samples"], f"weighting=samples has no effect on fusion={name}")
        for name in ("ties", "magmax", "opcm", "curve", "soup", "adamerging", "emr")
    ),
    (["fusion=dare", "fusion.then=ties", "weighting=samples"], "has no effect on fusion=dare"),
    (["fusion=dare", "fusion.scale=0.5", "weighting=samples"], "no effect on fusion=dare with these options"),
    (["checkpoints=[{a},{wide}]"], r"wide.pt has fc1.weight of shape \(12, 64\), in this network it is \(8, 64\)"),
    (["checkpoints=[{a},{wide}]", "fusion=ot", "fusion.anchor=widest"], "give backbone the widths of the anchor"),
    (["checkpoints=[{wide},{a}]", "fusion=ot"], "give backbone the widths of the anchor"),
    (["checkpoints=[{a},{deep}]", "fusion=ot"], "deep.pt has fc3.weight"),
    (["fusion=ot", *VIT], r"neurons cannot be aligned through patch_embed \(flatten\)"),
    (["fusion=rebasin", *VIT], r"neurons cannot be aligned through patch_embed \(flatten\)"),
    (["fusion=regmean", "backbone=timm", "backbone.model=test_nfnet"], r"was seen in stem.conv1 \(ScaledStdConv2d\)"),
    (["fusion=ensemble", "running=true"], "running=true continues from merged weights, and fusion=ensemble has none"),
    (["fusion=emr", "running=true"], "running=true continues from merged weights, and fusion=emr has none"),
    (["fusion=emr"], "fusion=emr makes a network for each task .* scenario=class2 does not tell it"),
    (["fusion=ensemble", "finetune_samples=10"], "finetune_samples=10 trains merged weights"),
    (["finetune_samples=1"], "finetune_samples must be at least 2, one of each task, or 0 for none, got 1"),
    (["finetune_samples=1.5"], "finetune_samples must be a whole number of at least 0, got 1.5"),
    (["finetune_epochs=0"], "finetune_epochs must be a number above 0 and of at most 1000000, got 0"),
    (["batch_norm_samples=1"], "batch_norm_samples must be a whole number of at least 2, got 1"),
    (["initial={a}"], "initial=FILE is for checkpoints"),
    (["weighting=size"], "weighting must be uniform or samples"),
    (["strategy=er"], "merging starts from strategy=independent, got strategy=er"),
    (["fusion.name=avg", "+fusion.scale=1"], "unknown option fusion.scale"),
    (["strategy.init=merged", "fusion=ensemble"], "strategy.init=merged continues from merged weights"),
    (["finetune_samples=-1"], "finetune_samples must be a whole number of at least 0, got -1"),
    (["launcher=horovod"], "merging runs in one process"),
    (["baselines=[derp]"], "baselines=derp does not exist"),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(trained, tmp_path_factory) -> dict[str, str]:
    """What the mistakes are about, by name."""
    folder = tmp_path_factory.mktemp("places")
    files = {"run": trained, "a": trained / "task_00.pt", "b": trained / "task_01.pt"}
    content = torch.load(files["a"])

    def saved(name: str, **changes) -> Path:
        torch.save(content | changes, folder / f"{name}.pt")
        return folder / f"{name}.pt"

    def shaped(name: str, *hidden: int) -> Path:
        network = build(
            content["config"]["backbone"] | {"hidden": list(hidden)}, "backbone", sample_shape=(1, 8, 8), num_outputs=10
        )
        return saved(name, model=network.state_dict())

    files["nan"] = saved("nan", model=content["model"] | {"fc2.bias": torch.full((10,), float("nan"))})
    files["task7"] = saved("task7", tasks=[7])
    files["wide"], files["deep"] = shaped("wide", 12), shaped("deep", 8, 8)
    torch.save(content["model"], folder / "plain.pt")
    files["plain"] = folder / "plain.pt"
    results = json.loads((trained / "results.json").read_text())

    def run(name: str, keep=("task_00.pt", "task_01.pt"), **changes) -> Path:
        (folder / name).mkdir()
        for file in keep:
            shutil.copyfile(trained / file, folder / name / file)
        write_json(folder / name / "results.json", results | changes)
        return folder / name

    config = results["config"]
    files["merged"] = run("merged", kind="merge")
    files["gap"] = run("gap", keep=["task_01.pt"])
    files["damaged"] = run("damaged")
    (files["damaged"] / "task_01.pt").write_bytes(b"\x80\x02")
    scenario = {"name": "permuted2", "_target_": "cl.scenarios.domains.Permuted", "num_tasks": 2}
    files["permuted"] = run("permuted", config=config | {"scenario": scenario})
    files["other_inits"] = run(
        "other_inits", config=config | {"strategy": config["strategy"] | {"init": "independent"}}
    )
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize("words, message", MISTAKES, ids=lambda value: value if isinstance(value, str) else None)
def test_mistakes_are_one_line_before_any_data_are_read_or_anything_is_trained(
    words, message, places, compose_config, monkeypatch, tmp_path
):
    def too_late(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr(Dataset, "load", too_late)
    monkeypatch.setattr(Trainer, "__init__", too_late)
    words = [word.format(**places) for word in words]
    if not any(word.startswith("baselines") for word in words):
        words.append("baselines=[finetune,joint]")
    if any(word.startswith("backbone=") for word in words):
        own = [word for word in SMALL if not word.startswith("backbone")]
    else:
        own = SMALL
    with pytest.raises((ValueError, OSError), match=message) as error:
        merging_run.run(compose_config(*own, *words, name="merge"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "multirun").exists()


def test_weights_that_a_network_has_under_two_names_are_refused():
    layer = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match="this one has 0.weight once more as 2.weight"):
        checks._check_names(torch.nn.Sequential(layer, torch.nn.ReLU(), layer))


def test_a_finished_merge_is_found_when_its_files_are_gone(merge_config, trained, tmp_path):
    files = copies(tmp_path, {"a.pt": trained / "task_00.pt", "b.pt": trained / "task_01.pt"})
    first = results_of(merge_config(files_of(files)))
    for file in files:
        Path(file).unlink()
    assert results_of(merge_config(files_of(files))) == first


def test_the_scale_of_magmax_may_be_nothing():
    state, start = {"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])}
    for merged in (0, 1):
        models = Models([state, state], [0.5, 0.5], ["w"], start, merged=merged)
        assert Magmax(scale=0.0)(models)["w"].item() == 1.0
