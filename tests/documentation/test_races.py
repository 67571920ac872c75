"""The race against Avalanche (benchmarks/race.py) runs on our side without it, and the page shows what was recorded."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT, command

from benchmarks import race, race_avalanche, race_remerge
from cl.data.rows import Rows
from cl.networks.backbones import mlp
from scripts.documentation import races

SETTINGS = {"capacity": 200, "lr": 0.01, "seed": 0, "batch_size": 10, "eval_batch_size": 1000}
RUN = {
    "process_s": 6.0, "processor_s": 5.0, "train_s": 3.0, "eval_s": 0.5, "rest_s": 2.5, "step_us": 500.0,
    "steps": 6000, "accuracy": 80.0, "parameters": 89610, "threads": 1, "torch": "2.14.1",
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path) -> Path:
    """MNIST's files with twelve training and two test pictures of each digit; returns the folder to give as data."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 120), ("t10k", 20)):
        labels = np.arange(count) % 10
        pictures = np.broadcast_to(25 * labels[:, None, None], (count, 28, 28))
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            start = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(start + array.astype(np.uint8).tobytes())
    return tmp_path / "data"


def test_our_side_is_a_command_of_a_user(tiny, tmp_path):
    line = race.command(SETTINGS | {"data": str(tiny)}, tmp_path / "out")
    assert line[0] == sys.executable
    done = command(*line[2:], script=line[1])
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "out").rglob("results.json")
    results = json.loads(file.read_text())
    found = race.figures_of(results)
    # 24 pictures of each task in 3 steps, and from the second task on 10 replayed in each.
    assert (found["steps"], results["labelled_samples"], found["threads"]) == (15, 120 + 4 * 3 * 10, 1)
    assert found["parameters"] == sum(weight.numel() for weight in race_avalanche.network().parameters())
    assert found["torch"] == torch.__version__ and 0 <= found["accuracy"] <= 100
    assert found["train_s"] > 0 and found["eval_s"] > 0


def test_the_networks_are_the_same():
    torch.manual_seed(3)
    ours = mlp((1, 28, 28), 10, [100, 100], init="xavier")
    torch.manual_seed(3)
    theirs = race_avalanche.network()
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert len(pairs) == 6 and all(torch.equal(one, other) for one, other in pairs)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(ours(x), theirs(x))


def test_our_buffer_is_measured(tiny):
    tasks = race_remerge.mnist(str(tiny))
    assert [sorted(set(rows.y.tolist())) for rows in tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert {len(rows) for rows in tasks} == {24} and isinstance(tasks[0], Rows)
    found = race_remerge.buffer(SETTINGS, tasks, calls=0.01)
    assert found.keys() == race.BUFFER_PARTS.keys() and all(0 < micros < 1e6 for micros in found.values())


def fake(lines: list[list[str]]):
    """In place of `race.timed`: nothing is run, and what would have been written is there."""

    def timed(line: list[str]) -> tuple[float, float]:
        lines.append(line)
        ours, told = "run.py" in line, [word for word in line if word.startswith("{")]
        if ours and "steps=1" not in line:
            folder = Path(next(word for word in line if word.startswith("output=")).partition("=")[2])
            folder.mkdir(parents=True)
            results = {"train_seconds": 3.0, "eval_seconds": 0.5, "gradient_steps": 6000, "average_accuracy": 0.8}
            results |= {"persistent": {"networks": 358440}, "config": {"threads": 1}, "versions": {"torch": "2.14.1"}}
            (folder / "results.json").write_text(json.dumps(results))
        elif told:
            runs = RUN | {"train_s": 6.0, "eval_s": 1.0}
            Path(line[-1]).write_text(json.dumps(runs if "train" in line else dict.fromkeys(race.BUFFER_PARTS, 8.0)))
        return (6.0, 5.0) if ours else (12.0, 10.0)

    return timed


def test_a_race_runs_its_sides_in_turn_with_equal_settings(tiny, tmp_path, monkeypatch):
    lines: list[list[str]] = []
    monkeypatch.setattr(race, "timed", fake(lines))
    monkeypatch.setattr(
        race, "versions", lambda python: {"remerge": {"torch": "2"}, "avalanche": {"avalanche-lib": "1"}}
    )
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    arguments, found = race.options([f"--data={tiny}", "--pairs=2", f"--environment={tmp_path / 'env'}"])
    assert found == python
    content = race.race(arguments, python)
    kinds = ["run" if "run.py" in line else next(w for w in line[1:] if not w.startswith("/")) for line in lines[2:]]
    kinds = ["own" if kind.startswith("{") else kind for kind in kinds]
    assert kinds == ["run", "train", "own", "buffer"] * 4
    told = [json.loads(word) for line in lines[2:] for word in line if word.startswith("{") and "train" in line]
    assert [(t["capacity"], t["lr"], t["seed"]) for t in told] == [
        (200, 0.01, 0),
        (200, 0.01, 1),
        (500, 0.1, 0),
        (500, 0.1, 1),
    ]
    runs = [line for line in lines[2:] if "run.py" in line]
    assert [("buffer.capacity=500" in line, "seed=1" in line) for line in runs] == [
        (False, False), (False, True), (True, False), (True, True)
    ]  # fmt: skip
    first = content["races"][0]
    assert first["unfair"] == [] and race.ratios(first["runs"], "process_s") == [0.5, 0.5]
    assert first["runs"][0]["remerge"]["rest_s"] == 2.5 and first["runs"][0]["remerge"]["step_us"] == 500.0
    assert str(tiny) not in json.dumps(content)
    shown = race.report(content)
    assert "UNFAIR" not in shown and "ratio 0.500 (0.500 to 0.500)" in shown
    assert races.tables(content).count("| 0.50 | 0.50 to 0.50 |") == 2 * len(race.PARTS)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"steps": 5999}, "steps differ: remerge [6000], avalanche [5999]"),
        ({"torch": "2.13"}, "torch differ"),
        ({"threads": 2}, "threads differ"),
        ({"accuracy": 86.0}, "accuracies differ by more than 5.0 points: remerge 80.00 %, avalanche 86.00 %"),
        ({"accuracy": 20.0}, "avalanche has learnt nothing: 20.00 %"),
    ],
)
def test_a_race_that_is_not_fair_says_so(change, reason):
    pair = {"remerge": RUN, "avalanche": RUN | {"accuracy": 84.0}}
    assert race.unfair([pair, pair]) == []
    found = race.unfair([{"remerge": RUN, "avalanche": RUN | change}])
    assert any(reason in line for line in found), found


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "no environment with Avalanche in {place}/none: expected {place}/none/bin/python; `make race` builds it"),
        (("--capacities=200,300",), "--capacities has 300; expected some of 200, 500, 5120"),
        (("--pairs=0",), "--pairs must be 1 or more, got 0"),
        (("--data={place}",), "no MNIST in {place}: expected the folder {place}/MNIST/raw; give --data PATH"),
    ],
)
def test_what_is_missing_is_an_error_with_its_remedy(tiny, tmp_path, capsys, words, said):
    given = [f"--data={tiny}", f"--environment={tmp_path / 'none'}", *(word.format(place=tmp_path) for word in words)]
    with pytest.raises(SystemExit):
        race.options(given)
    assert said.format(place=tmp_path) in capsys.readouterr().err


def test_a_command_that_fails_shows_what_it_said():
    with pytest.raises(RuntimeError, match="ended with status 3:\nno such thing"):
        race.timed([sys.executable, "-S", "-c", "print('no such thing'); raise SystemExit(3)"])


def test_the_page_shows_what_was_recorded():
    content = json.loads(races.RECORDED.read_text())
    page = races.PAGE.read_text()
    assert races.rewritten(page, content) == page, "run python -m scripts.documentation.races --write"
    content["races"][0]["runs"][0]["remerge"]["accuracy"] += 30
    content["date"] = "1999-12-31"
    changed = races.rewritten(page, content)
    assert len(changed.splitlines()) == len(page.splitlines())
    different = [one for one, other in zip(changed.splitlines(), page.splitlines()) if one != other]
    assert len(different) == 2 and different[0].startswith("1999-12-31") and "final accuracy" in different[1]
    with pytest.raises(ValueError, match="expected the line"):
        races.rewritten("# a page without the lines", content)


def test_the_script_that_builds_the_environment_pins_the_opponent():
    text = (ROOT / "scripts" / "race.sh").read_text()
    recorded = json.loads(races.RECORDED.read_text())["versions"]
    assert f"\navalanche={recorded['avalanche']['avalanche-lib']}\n" in text
    assert recorded["avalanche"]["torch"] == recorded["remerge"]["torch"]
