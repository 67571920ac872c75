"""Damages files that are read back, at random places, and looks at what the commands make of it.

    python benchmarks/damage.py                        300 places over all kinds of files
    python benchmarks/damage.py --places 30 --cases resumed,merge --seed 1

A bit is flipped, the end is cut off, some bytes are set to zero, or some are there twice. Then the command that reads
the file is run. Right are two outcomes: the numbers of the undamaged file (the bytes are of no use, or the checkpoint
before was taken), or one line that names the file, with exit status 1. Everything else is a mistake, is printed in
full, and makes the exit status 1: another number, a traceback, a command that hangs or ends otherwise.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forked import End, command, numbers

from cl.strategies.derpp import Derpp

SMALL = ["steps=5", "backbone.hidden=[8]", "scenario=class5", "progress=false", "pictures=[]", "log_interval=1"]
LOGS = ["strategy=derpp", "strategy._target_=damage.Logging", "trust=[damage]"]
SAVES = ["checkpoint.every=2"]
KILLED_AT = 13  # rows of metrics.csv: in the third of five tasks, after a step with two checkpoints behind it


class Logging(Derpp):
    """Also writes strategy_metrics.csv."""

    def observe(self, batch):
        loss = super().observe(batch)
        self.log("loss again", loss)
        return loss


@dataclass(frozen=True)
class Case:
    """A tree of files as some commands left it, and the command that reads them; `reads`: patterns of what it reads."""

    name: str
    made: Callable[[Path], None]
    words: Callable[[Path], list]
    reads: tuple[str, ...]
    same: Callable[[Path, End], dict] = lambda folder, end: numbers(folder)


def run(folder: Path, *words) -> list:
    return ["run.py", f"output={folder}", *SMALL, *words]


def merge(folder: Path, *words) -> list:
    return ["merge.py", f"output={folder}", *SMALL, "baselines=[]", *words]


def report(folder: Path, *words) -> list:
    return ["-m", "cl.report", folder, *words]


def do(words: list, prepare: Callable[[], None] | None = None, status: int = 0) -> End:
    """A command that has to end so."""
    end = command(words, prepare)
    assert end.status == status, f"{words} ended with {end.status}:\n{end.err}"
    return end


def killed(words: list, rows: int = KILLED_AT) -> None:
    """A run that is killed after so many rows, once the checkpoints so far are written."""

    def prepare() -> None:
        from cl.reporting.metrics_file import MetricsFile

        append, count = MetricsFile.append, []

        def counted(self, row) -> None:
            append(self, row)
            count.append(row)
            if len(count) == rows:
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)

        MetricsFile.append = counted

    do(words, prepare, 128 + signal.SIGKILL)


def killed_merge(words: list) -> None:
    """A merge that is killed when its first curve is trained."""

    def prepare() -> None:
        from merging.resume import Trained

        save = Trained.save

        def last(self, number, tree) -> None:
            save(self, number, tree)
            if number:
                os.kill(os.getpid(), signal.SIGKILL)

        Trained.save = last

    do(words, prepare, 128 + signal.SIGKILL)


def files_of(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def the_run(folder: Path) -> Path:
    (found,) = {path.parent for path in files_of(folder, "results.json")}
    return found


def pictures(folder: Path) -> list[str]:
    """Options of a data set of twelve pictures, which lies beside the tree: it is not what is damaged."""
    from PIL import Image

    root = folder.parent / "pictures"
    for part in ("train", "test"):
        for label in range(4):
            place = root / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(8):
                if not (file := place / f"{number}.png").exists():
                    Image.new("RGB", (6, 6), (60 * label, 20 * number, 9)).save(file)
    size = ["dataset.size=6", "scenario=class2", "buffer.capacity=6"]
    return ["dataset=image_folder", f"dataset.root={root}", f"dataset.cache={folder / 'cache'}", *size]


def several(folder: Path) -> None:
    for words in (["seed=0"], ["seed=1"], ["strategy=finetune"]):
        do(run(folder, *words))


def copies(folder: Path) -> None:
    """Networks in files of the user."""
    do(run(folder / "made", "strategy=independent"))
    for number, file in enumerate(files_of(folder, "task_*.pt")):
        shutil.copy(file, folder / f"{number}.pt")
    shutil.rmtree(folder / "made")


def studied(folder: Path) -> None:
    """A study.json as a study writes it, of runs that are there."""
    from cl.atomic import write_json
    from cl.reporting.page.study import SCHEMA

    several(folder)
    results = [str(path.relative_to(folder)) for path in files_of(folder, "results.json")]
    row = {"school": "rehearsal", "budget": "all", "command": "run.py"}
    rows = [row | {"name": "er", "runs": results[-2:]}, row | {"name": "finetune", "runs": results[:-2]}]
    write_json(
        folder / "study.json",
        {
            "schema": SCHEMA, "name": "small", "scenario": "class5", "dataset": "digits", "backbone": "mlp",
            "budgets": [{"name": "all", "kind": "samples", "bytes": 1e4, "passes": 1e3}], "rows": rows,
            "command": "merge.py", "seeds": [0, 1], "search": None,
        },
    )  # fmt: skip


def in_page(folder: Path, end: End) -> dict:
    return {"page": (folder / "report" / "report.csv").read_text()}


RESUMED = ("resume_*.pt", "buffer_*.pt", "task_*.pt", "metrics.csv", "strategy_metrics.csv")
CURVE = ["fusion=curve", "fusion.epochs=0.1", "fusion.samples_per_task=20", "fusion.points=3", "sequential=true"]
WITHIN = ["fusion.epochs=2", "checkpoint.every=2"]
STARTS = [word for word in CURVE if word != "sequential=true"] + ["strategy.init=merged", "running=true", *WITHIN]
CASES = (
    Case("finished", lambda f: do(run(f, *LOGS)), lambda f: run(f, *LOGS),
         ("results.json", "metrics.csv", "strategy_metrics.csv"),
         lambda f, end: numbers(f) | {"table": end.out.rpartition("finished before")[2].partition("train s")[0]}),
    Case("resumed", lambda f: killed(run(f, *LOGS, *SAVES)), lambda f: run(f, *LOGS, *SAVES), RESUMED),
    Case("resumed by reference", lambda f: killed(run(f, *SAVES, "buffer=reference")),
         lambda f: run(f, *SAVES, "buffer=reference"), RESUMED[:4]),
    Case("report", several, lambda f: report(f), ("results.json",)),
    Case("study", studied, lambda f: report(f, "--page"), ("study.json", "results.json"), in_page),
    Case("merge", lambda f: do(run(f / "base", "strategy=independent")),
         lambda f: merge(f, f"run={the_run(f / 'base')}", "fusion=avg"), ("base/**/results.json", "base/**/task_*.pt")),
    Case("checkpoints", copies,
         lambda f: merge(f, f"checkpoints=[{f / '0.pt'},{f / '1.pt'}]", f"initial={f / '2.pt'}", "fusion=ties"),
         ("[012].pt",)),
    Case("resumed merge", lambda f: killed_merge(merge(f, *CURVE)), lambda f: merge(f, *CURVE),
         ("trained_*.pt", "task_*.pt", "results.json", "metrics.csv")),
    Case("resumed in a curve", lambda f: killed(merge(f, *CURVE, *WITHIN), rows=25 + 5),
         lambda f: merge(f, *CURVE, *WITHIN), (".training_*/resume_*.pt", "task_*.pt", "results.json", "metrics.csv")),
    Case("resumed at a curve", lambda f: killed(merge(f, *STARTS), rows=34), lambda f: merge(f, *STARTS),
         ("merged/*.pt", "merged/metrics.csv", "resume_*.pt", "metrics.csv")),
    Case("finished merge", lambda f: do(merge(f, *CURVE)), lambda f: merge(f, *CURVE),
         ("curve_*/seed0/results.json", "curve_*/seed0/metrics.csv")),
    Case("cache", lambda f: (do(run(f, *pictures(f))), shutil.rmtree(the_run(f))),
         lambda f: run(f, *pictures(f)), ("*.npy",)),
)  # fmt: skip


def damage(path: Path, draw: random.Random) -> str:
    """Change a file at a random place; returns what was done."""
    whole = path.read_bytes()
    place, length = draw.randrange(len(whole)), 2 ** draw.randrange(10)
    kind = draw.choice(("a bit", "a bit", "the end", "zeros", "twice"))
    if kind == "a bit":
        bit = draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        return f"bit {bit} of byte {place} of {len(whole)} flipped"
    if kind == "the end":
        path.write_bytes(whole[:place])
        return f"cut off at byte {place} of {len(whole)}"
    end = min(place + length, len(whole))
    path.write_bytes(
        whole[:place] + (bytes(end - place) + whole[end:] if kind == "zeros" else whole[:end] + whole[place:])
    )
    return f"bytes {place} to {end} of {len(whole)} {'zeros' if kind == 'zeros' else 'twice'}"


def judged(case: Case, folder: Path, file: Path, expected: dict, end: End) -> tuple[bool, str]:
    """Whether an outcome is right, and which it is."""
    said = end.err.splitlines()
    if end.status is None:
        return False, "hangs"
    if "Traceback" in end.err + end.out or "weights_only" in end.err:
        return False, "traceback or dangerous advice"
    if end.status == 0:
        if (found := case.same(folder, end)) != expected:
            wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
            return False, f"another number: {', '.join(wrong)}"
        return True, "same numbers, said" if f"{file}" in end.out + end.err else "same numbers"
    if end.status != 1 or len(said) != 1 or not said[0].startswith("error: "):
        return False, f"status {end.status} and {len(said)} lines"
    return (True, "one line") if str(file) in said[0] or file.name in said[0] else (False, "a line without the file")


def campaign(cases: list[Case], places: int, seed: int, below: Path) -> tuple[Counter, int]:
    """Damage so many places in turn over the cases; counts of (case, kind of file, outcome), and of mistakes."""
    made = {case.name: prepared(case, below) for case in cases}
    draw, found, mistakes = random.Random(seed), Counter(), 0
    for number in range(places):
        case = cases[number % len(cases)]
        folder, pristine, expected = made[case.name]
        restore(pristine, folder)
        pattern = draw.choice(case.reads)
        file = draw.choice(files_of(folder, pattern))
        what = damage(file, draw)
        end = command(case.words(folder))
        right, outcome = judged(case, folder, file, expected, end)
        found[case.name, pattern.rpartition("/")[2], outcome] += 1
        if not right:
            mistakes += 1
            print(
                f"MISTAKE: {case.name}: {file.relative_to(folder)}: {what}: {outcome}\n{end.err}{end.out}", flush=True
            )
    return found, mistakes


def prepared(case: Case, below: Path) -> tuple[Path, Path, dict]:
    """The folder of a case, a copy of what is in it, and the numbers of its command."""
    folder, pristine = below / "tree", below / case.name
    restore(None, folder)
    case.made(folder)
    shutil.copytree(folder, pristine)
    for pattern in case.reads:
        assert files_of(folder, pattern), f"{case.name} has no {pattern}"
    end = do(case.words(folder))
    return folder, pristine, case.same(folder, end)


def restore(pristine: Path | None, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir() if pristine is None else shutil.copytree(pristine, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default="all", help=f"some of {'; '.join(case.name for case in CASES)}")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.cases == "all" or case.name in arguments.cases.split(",")]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="damage-") as below:
        found, mistakes = campaign(cases, arguments.places, arguments.seed, Path(below))
    for (case, kind, outcome), count in sorted(found.items()):
        print(f"{case:20} {kind:22} {outcome:20} {count:5}")
    print(f"{sum(found.values())} places in {time.perf_counter() - started:.0f} s, {mistakes} mistakes")
    sys.exit(mistakes > 0)


if __name__ == "__main__":
    main()
