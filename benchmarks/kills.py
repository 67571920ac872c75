"""Kills runs at random moments of training, starts the same commands again, and compares with undisturbed runs.

    python benchmarks/kills.py [--kills 200] [--seed 0] [--signal KILL] [--only NAME,...] [--folder FOLDER]

A chain is one command: it is started, killed at a random one of the steps that are left, or in what follows the last,
started again, and so on up to four times; then it runs to its end. Its folder must be that of an undisturbed run: the
same files, networks equal to the byte, results.json and metrics.csv equal but for times. With `--signal TERM`
(INT, USR1) the command itself gets the signal and must save, say so in one line and end with 128 + its number.

Of the kills 60 % are runs of one process, 30 % of two ranks (one killed or all, with and without `launcher.retries`),
10 % of streamed pictures. Steps are counted by a callback. Lost are the steps between the checkpoint that a run goes on
from and the last step before: at most `checkpoint.every`, and those that were made while a checkpoint was being
written. Exit status 1 on any difference, with the command that shows it.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from killed_runs import Attempt, Command, differences, no_process_left, pictures

MOST_KILLS = 4  # per chain
RUN = ("scenario=class5", "dataset=digits", "backbone=mlp", "backbone.hidden=[100]", "steps=100", "buffer.capacity=100",
       "progress=false", "pictures=[]", "log_interval=7", "output=out", "device=cpu", "checkpoint.every=25",
       "+callbacks.steps._target_=step_log.Steps", "trust=[step_log]")  # fmt: skip
NETWORK = ("backbone=timm", "backbone.model=test_resnet", "steps=60")  # has batch-norm
STREAM = (
    "dataset=image_folder",
    "dataset.size=8",
    "dataset.channels=1",
    "dataset.stream=true",
    "dataset.augment=[flip]",
)


@dataclass(frozen=True)
class Case:
    """A command. `victims`: one rank or all; `kind`: to which share of the kills it belongs."""

    name: str
    words: tuple[str, ...]
    kind: str = "one process"
    victims: str = "all"
    retries: int = 0

    @property
    def ranks(self) -> int:
        return 2 if any(word.startswith("launcher.np=2") for word in self.words) else 1


def alone(name: str, *words: str) -> Case:
    return Case(name, words)


def two(name: str, launcher: str, victims: str, *words: str, retries: int = 0) -> Case:
    words = (*words, f"launcher={launcher}", "launcher.np=2", f"launcher.retries={retries}")
    return Case(f"{name} {launcher}", words, "two ranks", victims, retries)


def streamed(name: str, *words: str) -> Case:
    return Case(f"{name} streamed", (*STREAM, *words), "streamed")


CASES = (
    *(alone(name, f"strategy={name}") for name in (
        "agem", "bic", "cls_er", "der", "derpp", "er", "er_ace", "ewc", "fdr", "finetune", "gdumb", "gem", "gss",
        "icarl", "independent", "joint", "lucir", "lwf", "mas", "mir", "ncm", "ranpac", "scr", "scratch", "si",
        "slda", "wa", "xder",
    )),
    alone("er in time", "strategy=er", "checkpoint.every=0.2s"),
    alone("er with pictures", "strategy=er", "pictures=[png]"),
    alone("derpp in fp16", "strategy=derpp", "precision=fp16"),
    alone("agem with accumulation", "strategy=agem", "gradient_accumulation_steps=3"),
    alone("er with batch-norm", "strategy=er", *NETWORK, "dataset.augment=[flip]", "optimizer=sgd"),
    alone("lwf with batch-norm and ema", "strategy=lwf", *NETWORK, "ema=0.9"),
    alone("er in epochs", "strategy=er", "steps=null", "epochs=8.5", "optimizer_state=epoch", "optimizer=adam"),
    alone("ewc by task", "strategy=ewc", "scenario=task5", "clip_norm=1.0"),
    alone("er with dropout and mixing", "strategy=er", *NETWORK, "+backbone.options.drop_rate=0.3",
          "mixing.mixup=0.4"),
    two("er", "torchrun", "one", "strategy=er"),
    two("derpp", "horovod", "all", "strategy=derpp"),
    two("ewc", "torchrun", "all", "strategy=ewc"),
    two("agem", "horovod", "one", "strategy=agem"),
    two("er with batch-norm", "torchrun", "one", "strategy=er", *NETWORK, "batch_norm=average"),
    two("icarl", "torchrun", "all", "strategy=icarl"),
    two("lwf with ema", "horovod", "one", "strategy=lwf", "ema=0.9"),
    two("gdumb", "torchrun", "one", "strategy=gdumb"),
    two("er with retries", "torchrun", "one", "strategy=er", retries=MOST_KILLS),
    two("si with retries", "horovod", "one", "strategy=si", retries=MOST_KILLS),
    two("derpp with accumulation", "horovod", "one", "strategy=derpp", "gradient_accumulation_steps=2"),
    two("er_ace in time", "torchrun", "all", "strategy=er_ace", "checkpoint.every=0.3s"),
    streamed("er", "strategy=er", "loader.workers=1"),
    streamed("finetune between steps", "strategy=finetune", "loader.workers=0"),
    streamed("derpp in epochs", "strategy=derpp", "steps=null", "epochs=4.5", "loader.workers=2"),
    two("streamed er", "torchrun", "one", *STREAM, "strategy=er", "loader.workers=1"),
)  # fmt: skip
SHARES = {"one process": 0.6, "two ranks": 0.3, "streamed": 0.1}


@dataclass
class Found:
    """What the chains of a case have shown."""

    chains: int = 0
    kills: int = 0
    lost: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """Chains with their undisturbed runs, below one folder."""

    def __init__(self, folder: Path, seed: int, number: int):
        self.folder, self.random, self.signal = folder, random.Random(seed), number
        self.root = pictures(folder / "pictures")
        self.whole: dict[str, Attempt] = {}
        self.found: dict[str, Found] = {}

    def words(self, case: Case) -> list[str]:
        own = [*case.words, *([f"dataset.root={self.root}"] if "dataset=image_folder" in case.words else [])]
        keys = {word.partition("=")[0] for word in own}
        keys |= {"backbone.hidden"} if "backbone" in keys else set()  # an option of the MLP
        return [*(word for word in RUN if word.partition("=")[0] not in keys), *last_of_each(own)]

    def undisturbed(self, case: Case) -> Attempt:
        """The run that nobody kills."""
        if case.name not in self.whole:
            place = self.folder / "whole" / case.name.replace(" ", "_")
            attempt = Command(self.words(case), place).start()
            status, error = attempt.end()
            if status:
                raise RuntimeError(f"{case.name} does not run: status {status}: {error}\n{attempt.command.line}")
            self.whole[case.name] = attempt
        return self.whole[case.name]

    def chain(self, case: Case, most: int) -> None:
        """One command, killed up to `most` times and run to its end."""
        whole = self.undisturbed(case)
        found = self.found.setdefault(case.name, Found())
        number = found.chains = found.chains + 1
        command = Command(self.words(case), self.folder / "killed" / f"{case.name.replace(' ', '_')}_{number}")
        kills, wrong, attempt, starts = 0, [], command.start(), 0
        while kills < most:
            if not attempt.wait_until(lambda found: len(found) > starts and found[-1].steps):  # it has ended
                break
            starts = len(attempt.starts)
            # Up to a random one of the steps that are left, and on into it; or into what follows the last.
            done = whole.index(attempt.starts[-1].position)
            step = self.random.uniform(done, whole.total * 1.05)
            attempt.wait_until(lambda starts: whole.index(starts[-1].last) >= min(step, whole.total - 1))
            time.sleep(self.random.uniform(0, 0.3 if step > whole.total else whole.seconds / whole.total))
            if attempt.ended:
                break
            kills += 1
            if self.signal != signal.SIGKILL:
                wrong += self.stopped(attempt)
            else:
                attempt.kill(case.victims, self.random)
                if case.retries:
                    continue
                attempt.end()
            attempt, starts = command.start(), len(attempt.starts)
        status, error = attempt.end()
        if status:
            wrong.append(f"the last start ended with status {status}: {error}")
        lost = whole.lost(attempt.starts)
        wrong += differences(whole.command.folder / "out", command.folder / "out") + no_process_left(command.token)
        every = next(word.partition("=")[2] for word in reversed(command.words) if word.startswith("checkpoint.every="))
        limit = 2 * int(every) if every.isdigit() else None
        if limit is not None and lost and max(lost) > limit:
            wrong.append(f"{max(lost)} steps were lost, more than two times checkpoint.every={every}")
        if self.signal != signal.SIGKILL and any(lost):
            wrong.append(f"{max(lost)} steps were lost after a signal that asked for a checkpoint")
        found.kills, found.lost = found.kills + kills, found.lost + lost
        found.wrong += [f"{text}\n    {command.line}  (in {command.folder})" for text in wrong]

    def stopped(self, attempt: Attempt) -> list[str]:
        """What is wrong with the end of a command after a signal that it can handle."""
        attempt.send(self.signal)
        status, error = attempt.end()
        name = signal.Signals(self.signal).name
        if status == 0:  # the signal came after the last step
            return []
        if status != 128 + self.signal:
            return [f"after {name} it ended with status {status}: {error}"]
        lines = [line for line in error.splitlines() if name in line or "error:" in line]  # libraries may warn
        return [] if len(lines) == 1 and name in lines[0] else [f"after {name} it wrote not one line: {error!r}"]

    def report(self) -> bool:
        """Print the table; whether all is right."""
        print(f"\n{'family':34} {'ranks':>5} {'kills':>5} {'chains':>6} {'lost max':>8} {'mean':>6}  same")
        for case in CASES:
            if case.name in self.found:
                found = self.found[case.name]
                mean = sum(found.lost) / max(1, len(found.lost))
                print(
                    f"{case.name:34} {case.ranks:5} {found.kills:5} {found.chains:6} {max(found.lost, default=0):8} "
                    f"{mean:6.1f}  {'yes' if not found.wrong else 'NO'}"
                )
        wrong = [text for found in self.found.values() for text in found.wrong]
        kills, chains = (sum(getattr(found, name) for found in self.found.values()) for name in ("kills", "chains"))
        print(f"{kills} kills by {signal.Signals(self.signal).name} in {chains} chains, {len(wrong)} differences")
        for text in wrong:
            print(f"- {text}")
        return not wrong


def last_of_each(words: list[str]) -> list[str]:
    """The words without those whose key is set again later."""
    return list({word.partition("=")[0]: word for word in words}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT", "USR1"))
    parser.add_argument(
        "--only", default="", help="names of families, or kinds (one process, two ranks, streamed), with commas"
    )
    parser.add_argument("--folder", type=Path, help="for all runs; default: a temporary one")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    cases = [case for case in CASES if not only or {case.name, case.kind} & set(only)]
    if not cases:
        sys.exit(f"error: --only={options.only} names no family; there are: {', '.join(case.name for case in CASES)}")
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        campaign = Campaign(folder, options.seed, getattr(signal, f"SIG{options.signal}"))
        shares = {kind: share for kind, share in SHARES.items() if any(case.kind == kind for case in cases)}
        for kind, share in shares.items():
            own = [case for case in cases if case.kind == kind]
            wanted, number = round(options.kills * share / sum(shares.values())), 0
            while (left := wanted - sum(campaign.found[c.name].kills for c in own if c.name in campaign.found)) > 0:
                case = own[number % len(own)]
                campaign.chain(case, min(MOST_KILLS, left))
                number += 1
                found = campaign.found[case.name]
                print(f"{case.name}: {found.kills} kills, {'; '.join(found.wrong) or 'equal'}", flush=True)
        sys.exit(0 if campaign.report() else 1)


if __name__ == "__main__":
    main()
