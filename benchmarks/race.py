"""remerge against Avalanche: Split MNIST with ER, whole process, training and replay memory, in pairs on one core.

    make race RACE_ARGS="--data PATH [--pairs 3] [--capacities 200,500] [--output FILE]"

Both train the MLP 784-100-100-10 (Glorot, biases 0) by SGD on five tasks of two digits, one pass, 10 new and, from the
second task on, 10 replayed samples per step, on one thread, and test all tasks after each. The learning rates are those
published for ER (conf/experiment/split_mnist_er.yaml). In pair number i both take seed i, one after the other.

process    seconds from the start of the command to its end: imports, reading MNIST, training, tests, what is written;
           in parts, the last of which is what is neither training nor tests.
           remerge is `python run.py` (see `command`), Avalanche is benchmarks/race_avalanche.py.
processor  the same in seconds of processor time, which other processes change little
training   microseconds per training step: of remerge's `train_seconds`, and of Avalanche's `train()`
memory     microseconds of each of BUFFER_PARTS, in processes of their own

What differs: remerge offers each batch to its memory in the step that trains on it, Avalanche each task at its end.
remerge tests the untrained network as well, and writes a checkpoint of every task and its results; Avalanche writes
nothing. Plots are left out (`pictures=[]`). The exit status is 1 if the race was not fair: see `unfair`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = yaml.safe_load((ROOT / "conf/experiment/split_mnist_er.yaml").read_text())["published"]
SIDES = ("remerge", "avalanche")
OPPONENT, OWN_BUFFER = (str(ROOT / "benchmarks" / f"race_{side}.py") for side in ("avalanche", "remerge"))
BATCH_SIZE, EVAL_BATCH_SIZE = 10, 1000
ALIKE = 5.0  # points of accuracy, between the means over the pairs
PARTS = {
    "process_s": "whole process, s",
    "train_s": "of it training, s",
    "eval_s": "of it tests, s",
    "rest_s": "of it start, reading and writing, s",
    "processor_s": "whole process in processor time, s",
    "step_us": "a training step, us",
}
BUFFER_PARTS = {
    "add_batch": "offer 10 samples to the full memory",
    "add_task": "offer a task of 11,800 samples at once",
    "draw": "draw 10 samples, ready for the network",
    "batch": "10 new samples in random order, and a draw",
}


def command(settings: dict, folder: Path) -> list[str]:
    """remerge's command, as a user would give it."""
    words = {
        "buffer.capacity": settings["capacity"],
        "strategy.replay_from": 2,
        "seed": settings["seed"],
        "dataset.root": settings["data"],
        "threads": 1,
        "pictures": "[]",
        "output": folder,
    }
    return [sys.executable, "run.py", "+experiment=split_mnist_er", *(f"{key}={value}" for key, value in words.items())]


def timed(line: list[str]) -> tuple[float, float]:
    """Run a command; returns its seconds by the clock and of processor time. Raises RuntimeError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"{' '.join(line[:3])} ended with status {process.returncode}:\n{said}")
    return seconds, usage.ru_utime + usage.ru_stime


def figures_of(results: dict) -> dict:
    """What race_avalanche.py writes, from the results.json of a run of remerge."""
    return {
        "train_s": results["train_seconds"],
        "eval_s": results["eval_seconds"],
        "steps": results["gradient_steps"],
        "accuracy": 100 * results["average_accuracy"],
        "parameters": results["persistent"]["networks"] // 4,
        "threads": results["config"]["threads"],
        "torch": results["versions"]["torch"],
    }


def remerge(settings: dict, folder: Path) -> dict:
    """One run of remerge: its times, and what it has found."""
    process_s, processor_s = timed(command(settings, folder))
    (file,) = folder.rglob("results.json")
    return finished(process_s, processor_s, figures_of(json.loads(file.read_text())))


def avalanche(python: Path, settings: dict, folder: Path) -> dict:
    """The same of Avalanche."""
    process_s, processor_s = timed(written_to(folder / "train.json", [str(python), OPPONENT, "train"], settings))
    return finished(process_s, processor_s, json.loads((folder / "train.json").read_text()))


def finished(process_s: float, processor_s: float, figures: dict) -> dict:
    """The figures of one run, with those that follow from them."""
    rest_s = process_s - figures["train_s"] - figures["eval_s"]
    step_us = 1e6 * figures["train_s"] / figures["steps"]
    return figures | {"process_s": process_s, "processor_s": processor_s, "rest_s": rest_s, "step_us": step_us}


def written_to(file: Path, line: list[str], settings: dict) -> list[str]:
    return [*line, json.dumps(settings), str(file)]


def buffers(python: Path, settings: dict, folder: Path) -> dict:
    """Microseconds of the BUFFER_PARTS of both sides."""
    lines = {"remerge": [sys.executable, OWN_BUFFER], "avalanche": [str(python), OPPONENT, "buffer"]}
    for side, line in lines.items():
        timed(written_to(folder / f"{side}.json", line, settings))
    return {side: json.loads((folder / f"{side}.json").read_text()) for side in lines}


def unfair(pairs: list[dict]) -> list[str]:
    """Why a race of such pairs says nothing; an empty list if it does."""
    reasons = []
    for name in ("steps", "parameters", "threads", "torch"):
        found = {side: {pair[side][name] for pair in pairs} for side in SIDES}
        if found["remerge"] != found["avalanche"]:
            reasons.append(f"{name} differ: " + ", ".join(f"{side} {sorted(found[side])}" for side in SIDES))
    ours, theirs = (statistics.mean(pair[side]["accuracy"] for pair in pairs) for side in SIDES)
    if abs(ours - theirs) > ALIKE:
        reasons.append(f"accuracies differ by more than {ALIKE} points: remerge {ours:.2f} %, avalanche {theirs:.2f} %")
    chance = 100 / 5 + 10  # who forgets all but the last task has a fifth of the digits
    reasons += [
        f"{side} has learnt nothing: {mean:.2f} %" for side, mean in zip(SIDES, (ours, theirs)) if mean < chance
    ]
    return reasons


def ratios(pairs: list[dict], name: str) -> list[float]:
    """remerge's figure over Avalanche's of each pair, sorted."""
    return sorted(pair["remerge"][name] / pair["avalanche"][name] for pair in pairs)


def row(what: str, pairs: list[dict], name: str) -> str:
    ours, theirs = (statistics.median(pair[side][name] for pair in pairs) for side in SIDES)
    found = ratios(pairs, name)
    return (
        f"  {what:44} {ours:9.2f} {theirs:10.2f}   ratio {statistics.median(found):.3f} "
        f"({found[0]:.3f} to {found[-1]:.3f})"
    )


def report(content: dict) -> str:
    """What a race has found, for people."""
    lines = [
        f"medians of {content['pairs']} pairs on one core; ratio: remerge over Avalanche, below 1: remerge is faster"
    ]
    for race in content["races"]:
        lines.append(f"\nmemory of {race['capacity']} samples, learning rate {race['lr']}{'':11} remerge  avalanche")
        lines += [row(what, race["runs"], name) for name, what in PARTS.items()]
        lines += [row(f"{what}, us", race["buffers"], name) for name, what in BUFFER_PARTS.items()]
        found = [[pair[side]["accuracy"] for pair in race["runs"]] for side in SIDES]
        lines.append(f"  {'final accuracy, %':44} {statistics.mean(found[0]):9.2f} {statistics.mean(found[1]):10.2f}")
        lines += [f"  UNFAIR: {reason}" for reason in race["unfair"]]
    if content["load"] > 0.5:
        lines.append(
            f"\nother processes were running at the start (load {content['load']}): times by the clock scatter"
        )
    return "\n".join(lines)


def race(arguments, python: Path) -> dict:
    """All pairs; the content of the JSON file."""
    base = {"data": str(Path(arguments.data).resolve()), "batch_size": BATCH_SIZE, "eval_batch_size": EVAL_BATCH_SIZE}
    content = {
        "schema": "remerge.race/1",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()})",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": versions(python),
        "pairs": arguments.pairs,
        "races": [],
    }
    with tempfile.TemporaryDirectory() as place:
        first = base | {"capacity": arguments.capacities[0], "lr": 0.1, "seed": 0}
        timed([*command(first, Path(place) / "warm"), "steps=1"])
        timed(written_to(Path(place) / "warm.json", [str(python), OPPONENT, "warm"], first))
        for capacity in arguments.capacities:
            settings = base | {"capacity": capacity, "lr": PROTOCOL[str(capacity)]["lr"]}
            runs, memories = [], []
            for seed in range(arguments.pairs):
                folder = Path(place) / f"{capacity}_{seed}"
                chosen = settings | {"seed": seed}
                runs.append({"remerge": remerge(chosen, folder), "avalanche": avalanche(python, chosen, folder)})
                memories.append(buffers(python, chosen, folder))
                print(f"{capacity} samples, pair {seed + 1} of {arguments.pairs} done", file=sys.stderr, flush=True)
            found = {"capacity": capacity, "lr": settings["lr"], "runs": runs, "buffers": memories}
            content["races"].append(found | {"unfair": unfair(runs)})
    return content


def versions(python: Path) -> dict:
    """What is installed on both sides."""
    names = {
        "remerge": ("torch", "torchvision", "numpy"),
        "avalanche": ("avalanche-lib", "torch", "torchvision", "numpy"),
    }
    ask = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    pythons = {"remerge": sys.executable, "avalanche": str(python)}
    return {side: json.loads(subprocess.check_output([pythons[side], "-c", ask, *names[side]])) for side in SIDES}


def options(words: list[str] | None = None) -> tuple[argparse.Namespace, Path]:
    """The arguments, and the opponent's interpreter; ends the program for what makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="the folder that has MNIST/raw/")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--capacities", default="200,500", help=f"sizes of the memory, of {', '.join(PROTOCOL)}")
    parser.add_argument("--environment", default=ROOT / ".race", type=Path, help="what scripts/race.sh has built")
    parser.add_argument("--output", default=ROOT / "build" / "race.json", type=Path, help="the file of all figures")
    arguments = parser.parse_args(words)
    sizes = arguments.capacities.split(",")
    if unknown := [size for size in sizes if size not in PROTOCOL]:
        parser.error(f"--capacities has {', '.join(unknown)}; expected some of {', '.join(PROTOCOL)}")
    arguments.capacities = [int(size) for size in sizes]
    if arguments.pairs < 1:
        parser.error(f"--pairs must be 1 or more, got {arguments.pairs}")
    raw = Path(arguments.data) / "MNIST" / "raw"
    if not raw.is_dir():
        parser.error(f"no MNIST in {arguments.data}: expected the folder {raw}; give --data PATH")
    python = arguments.environment / "bin" / "python"
    if not python.is_file():
        parser.error(
            f"no environment with Avalanche in {arguments.environment}: expected {python}; `make race` builds it"
        )
    return arguments, python


def main() -> None:
    arguments, python = options()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    content = race(arguments, python)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    print(report(content))
    print(f"\nwritten: {arguments.output}")
    sys.exit(any(race["unfair"] for race in content["races"]))


if __name__ == "__main__":
    main()
