"""The replay memory over several real processes, and whole runs that train with it.

The processes are started by replay_worker.py, which also holds what they do: a test here names a scenario of that file,
how many ranks play it and over which transport, and judges what they return.
"""

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from support import ROOT
from test_ranks import assert_same_weights, finish, start, train_ranks

from cl.buffers import settings  # noqa: F401, imports all policies
from cl.buffers.insertion import InsertionPolicy
from cl.buffers.sampling import SamplingPolicy
from cl.buffers.settings import import_policies

# A policy is rejected at p < LEVEL: of correct buffers one in 10,000 would be. Seeds are fixed, so each test always
# passes or always fails.
LEVEL = 1e-4

WORKER = Path(__file__).with_name("replay_worker.py")
import_policies()
POLICIES = list(product(sorted(InsertionPolicy.known), sorted(SamplingPolicy.known)))
CLASSES = 6  # an id modulo this is its class
TCP = {"UCX_TLS": "tcp,self"}
TRANSPORTS = {"shared memory": {}, "tcp": TCP}  # within a host UCX takes shared memory of its own accord
over_each_transport = pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)


class Team:
    """Starts groups of ranks; each is a job in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.jobs = folder, 0
        self.running: dict[Path, list[int]] = {}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def job(self, ranks: int, transport: dict, *scenarios) -> Path:
        self.jobs += 1
        folder = self.folder / f"job_{self.jobs}"
        folder.mkdir()
        content = {"ranks": ranks, "environment": transport, "scenarios": scenarios}
        (folder / "job.json").write_text(json.dumps(content))
        return folder

    def start(self, ranks: int, transport: dict, scenario: str, **options) -> Path:
        job = self.job(ranks, transport, (scenario, options))
        self.running[job] = self._ask("start", str(job))
        return job

    def ended(self, job: Path, seconds: float) -> list[int | None]:
        """The exit status of each rank, None for those that are still there after that time."""
        return self._ask("wait", str(job), seconds)

    def run(self, ranks: int, transport: dict, scenario: str, **options) -> list:
        """What each rank of a job returns."""
        return [results[0] for results in self.results(self.start(ranks, transport, scenario, **options))]

    def results(self, job: Path, seconds: float = 90) -> list:
        statuses = self.ended(job, seconds)
        self.kill(job)
        assert statuses == [0] * len(statuses), f"the ranks ended with {statuses}{said(job)}"
        del self.running[job]
        return [json.loads((job / f"result_{rank}.json").read_text()) for rank in range(len(statuses))]

    def kill(self, job: Path) -> None:
        """What is left of a job."""
        for pid, status in zip(self.running[job], self.ended(job, 0)):
            if status is None:  # not reaped yet, so the number is still that of the rank
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for job in self.running:
            self.kill(job)
        self.process.stdin.close()
        self.process.wait(10)

    def _ask(self, *question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def said(job: Path) -> str:
    """What the ranks of a job left behind when something went wrong."""
    files = sorted([*job.glob("error_*.txt"), *job.glob("output_*.txt")])
    return "".join(f"\n{file.name}: {file.read_text()[-2000:]}" for file in files if file.read_text())


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    team = Team(tmp_path_factory.mktemp("ranks"))
    try:
        if team.run(1, {}, "has_transport") == [False]:
            pytest.skip("the replay buffer is built without UCX here, and serves one rank")
        yield team
    finally:
        team.close()


# ---- Content and time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_draws_are_whole_records_and_repeat_to_the_bit_whatever_the_transport_and_the_timing(team, ranks):
    # Batches and draws of 0, 1, a few and more than are stored, each rank its own; `train` checks every field of every
    # record, and the number of records of every draw.
    once = team.run(ranks, {}, "train", policies=POLICIES, steps=100)
    again = team.run(ranks, TCP, "train", policies=POLICIES, steps=100, sleeps=True)
    assert again == once
    other_seed = team.run(ranks, {}, "train", policies=POLICIES, steps=5, seed=1)
    digests = [digest for of_rank in once + other_seed for digest in of_rank]
    assert len(set(digests)) == len(digests), "two ranks, policies or seeds draw alike"


@over_each_transport
def test_large_records_come_in_several_messages_and_are_whole(team, transport):
    once = team.run(3, transport, "train", policies=POLICIES[::3], steps=40, large=True)
    assert team.run(3, transport, "train", policies=POLICIES[::3], steps=40, large=True, sleeps=True) == once


@over_each_transport
def test_draw_k_sees_exactly_what_each_rank_had_at_its_request_k(team, transport):
    team.run(3, transport, "visibility", steps=80)


# ---- Sampling policies -----------------------------------------------------------------------------------------------


def same_chance(counts, sizes) -> float:
    """p-value of the hypothesis that each of len(counts) records was equally likely to be in each of the samples.

    counts: how many samples each record was in; sizes: of each sample. Records of one sample exclude each other, so the
    counts scatter less than those of independent events.
    """
    counts, sizes = np.asarray(counts, dtype=float), np.asarray(sizes, dtype=float)
    assert counts.sum() == sizes.sum()
    share = sizes / len(counts)
    variance = (share * (1 - share)).sum() * len(counts) / (len(counts) - 1)
    return float(stats.chi2.sf(((counts - share.sum()) ** 2).sum() / variance, len(counts) - 1))


def same_share(hits: int, draws: int, n: int, part: int, total: int) -> float:
    """p-value of the hypothesis that `hits` of the records of `draws` draws of n lie in a part of all records."""
    chances = stats.hypergeom(total, part, n)
    return float(2 * stats.norm.sf(abs(hits - draws * chances.mean()) / math.sqrt(draws * chances.var())))


def of_class(label: int, count: int, first: int = 0) -> list[int]:
    return list(range(first + label, first + label + count * CLASSES, CLASSES))


# Shards of 130: five records, far more than fit, none, some; classes 1 and 2 live on rank 1 only, class 5 on rank 3.
UNEVEN = [
    of_class(0, 5),
    of_class(0, 255, 6000) + of_class(1, 100, 6000) + of_class(2, 150, 6000),
    [],
    of_class(5, 50, 12000) + of_class(0, 10, 12000),
]
SHARDS = [range(6000), range(6000, 12000), range(0), range(12000, 18000)]  # the ids that each rank was offered


def judge_uniform(drawn: list[list[int]], stored: list[int], n: int) -> float:
    """The least p-value of the tests of uniform draws, times their number."""
    counts = Counter(record for one in drawn for record in one)
    values = [same_chance([counts[record] for record in stored], [n] * len(drawn))]
    for shard in SHARDS:  # by shards: five records weigh little among 195
        part = [record for record in stored if record in shard]
        if part:
            hits = sum(counts[record] for record in part)
            values.append(same_share(hits, len(drawn), n, len(part), len(stored)))
    return min(values) * len(values)


@over_each_transport
def test_uniform_draws_take_every_record_of_every_rank_equally_often(team, transport):
    n, draws = 5, 1500
    ranks = team.run(4, transport, "frequencies", offered=UNEVEN, sampling="uniform", n=n, draws=draws)
    stored = ranks[0]["stored"]
    assert [sum(record in shard for record in stored) for shard in SHARDS] == [5, 130, 0, 60]
    for of_rank in ranks:
        assert of_rank["stored"] == stored and set(of_rank["weights"].values()) == {1.0}
        assert judge_uniform(of_rank["drawn"], stored, n) > LEVEL
    for one, other in combinations(ranks, 2):  # draws of two ranks have no more in common than chance gives
        common = sum(len(set(a) & set(b)) for a, b in zip(one["drawn"], other["drawn"]))
        assert same_share(common, draws, n, n, len(stored)) > LEVEL / 6


def test_the_test_of_uniform_draws_rejects_taking_a_rank_first(team):
    chance = np.random.default_rng(0)
    stored = of_class(0, 5) + list(range(6000, 6130)) + list(range(12000, 12060))
    parts = [np.array([record for record in stored if record in shard]) for shard in SHARDS if len(shard)]

    def drawn(weights):  # of the ranks
        one: set[int] = set()
        while len(one) < 5:
            one.add(int(chance.choice(parts[chance.choice(3, p=weights)])))
        return list(one)

    assert judge_uniform([drawn([1 / 3] * 3) for _ in range(2000)], stored, 5) < LEVEL
    # Even if a shard of 5 of 195 records gets but half more than its due.
    assert judge_uniform([drawn([7.5 / 195, 127.5 / 195, 60 / 195]) for _ in range(2000)], stored, 5) < LEVEL
    assert judge_uniform([drawn([5 / 195, 130 / 195, 60 / 195]) for _ in range(2000)], stored, 5) > LEVEL


@over_each_transport
def test_class_balanced_draws_are_even_over_the_classes_of_all_ranks_and_uniform_within(team, transport):
    n, draws = 3, 1500  # fewer than any class has, so no class is used up within a draw
    ranks = team.run(4, transport, "frequencies", offered=UNEVEN, sampling="class_balanced", n=n, draws=draws)
    stored = ranks[0]["stored"]
    sizes = Counter(record % CLASSES for record in stored)
    assert sizes.keys() == {0, 1, 2, 5} and sizes[5] == 50 and sum(sizes.values()) == 195
    for of_rank in ranks:
        assert of_rank["stored"] == stored
        drawn = of_rank["drawn"]
        counts = Counter(record for one in drawn for record in one)
        by_class = {label: [sum(record % CLASSES == label for record in one) for one in drawn] for label in sizes}
        assert stats.chisquare([sum(of_label) for of_label in by_class.values()]).pvalue > LEVEL
        for label, of_label in by_class.items():
            assert same_chance([counts[record] for record in stored if record % CLASSES == label], of_label) > LEVEL
        for record, weight in of_rank["weights"].items():
            assert weight == pytest.approx(len(sizes) * sizes[int(record) % CLASSES] / 195)


# ---- Updates ---------------------------------------------------------------------------------------------------------


@over_each_transport
@pytest.mark.parametrize("insertion, sampling", [POLICIES[0], POLICIES[-1]])
def test_updates_reach_records_on_every_rank(team, transport, insertion, sampling):
    team.run(3, transport, "updates", insertion=insertion, sampling=sampling)


@over_each_transport
def test_updates_of_replaced_records_change_nothing(team, transport):
    team.run(3, transport, "late_updates")


@over_each_transport
def test_of_rival_updates_that_of_the_highest_rank_stays(team, transport):
    team.run(3, transport, "rival_updates")


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_loaded_buffer_goes_on_as_the_saved_one(team, ranks, tmp_path):
    for of_rank in team.run(ranks, {}, "go_on", policies=POLICIES, folder=str(tmp_path)):
        for saved, loaded in of_rank:
            assert loaded == saved


def test_updates_that_no_draw_has_seen_are_saved(team, tmp_path):
    team.run(2, {}, "save_after_update", folder=str(tmp_path))


@pytest.fixture(scope="module")
def files(team, tmp_path_factory):
    """Files of buffers that were saved by 1, 2 and 4 ranks, each made once: their folder, and the ids in them."""
    made = {}

    def get(ranks: int):
        if ranks not in made:
            folder = str(tmp_path_factory.mktemp("files"))
            ids, *others = team.run(ranks, {}, "save", policies=POLICIES, folder=folder)
            assert all(other == ids for other in others)
            made[ranks] = folder, ids
        return made[ranks]

    return get


@pytest.mark.parametrize("before, after", [(2, 4), (2, 1), (4, 2), (1, 4)])
def test_another_number_of_ranks_loads_every_record_once_and_goes_on_by_the_laws(team, files, before, after):
    folder, ids = files(before)
    assert all(len(of_law) > 100 for of_law in ids)
    for of_rank in team.run(after, {}, "load", policies=POLICIES, folder=folder, saved_by=before):
        assert of_rank == ids


def test_files_that_are_missing_damaged_or_of_another_buffer_change_nothing(team, tmp_path):
    team.run(2, {}, "refuse", folder=str(tmp_path))


def test_a_single_damaged_byte_is_noticed_wherever_it_is(team, files):
    folder, _ = files(2)
    team.run(1, {}, "flip", folder=folder, saved_by=2)


# ---- The end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_stops_is_named_by_the_others_in_time(team, how):
    # In the middle of training, or while the others have closed and it has not; all at once, as most of it is waiting.
    victim, timeout, jobs = 1, 3, {}
    for (name, transport), phase in product(TRANSPORTS.items(), ("steps", "close")):
        jobs[name, phase] = team.start(3, transport, "lose", victim=victim, phase=phase)
    try:
        for job in jobs.values():
            assert appear(job, [f"ready_{rank}" for rank in range(3)]), said(job)
        time.sleep(0.5)
        struck = time.monotonic()
        for job in jobs.values():
            os.kill(team.running[job][victim], how)
        for case, job in jobs.items():
            # Nothing is left hanging, though the victim may be there still.
            assert appear(job, ["result_0.json", "result_2.json"]), (case, team.ended(job, 0), said(job))
            for rank in (0, 2):
                (told,) = json.loads((job / f"result_{rank}.json").read_text())
                assert re.search(r"rank (\d)", told["message"])[1] == str(victim), (case, told["message"])
                assert how is signal.SIGKILL or f"rank {victim} has been silent for " in told["message"], case
                assert told["told"] - struck < timeout + 5, case
    finally:
        for job in jobs.values():
            team.kill(job)


def test_a_rank_that_waits_for_another_is_not_blamed_for_it(team):
    job = team.start(3, {}, "held_up")
    try:
        assert appear(job, [f"ready_{rank}" for rank in range(3)]), said(job)
        os.kill(team.running[job][2], signal.SIGSTOP)
        assert appear(job, ["result_0.json", "result_1.json"]), said(job)
        found, told = (json.loads((job / f"result_{rank}.json").read_text())[0] for rank in (0, 1))
    finally:
        team.kill(job)
    number = r"\d+\.\d s"
    silent = rf"waited {number} for draw \d+: rank 2 has been silent for {number}"
    assert re.fullmatch(f"{silent}; rank 1 answers and has not asked for it", found)
    assert told == f"{found} (rank 0 found that, and gave up)"


def test_a_rank_that_was_stopped_does_not_blame_the_others(team):
    team.run(2, {}, "nap")


@over_each_transport
def test_who_does_not_know_the_token_is_not_heard(team, transport):
    first = transport != TCP  # that it reads rank 0's shard, which it says once
    assert team.run(3, transport, "strangers") == [50 + first, 0, None]


def appear(job: Path, names: list[str], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not all((job / name).exists() for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@over_each_transport
@pytest.mark.parametrize("steps", [[60, 5, 30], [0, 40, 20]], ids=["one after another", "one never draws"])
def test_a_rank_that_closes_first_serves_the_others_until_they_are_done(team, transport, steps):
    team.run(3, transport, "finish", steps=steps)


@over_each_transport
def test_a_pause_longer_than_the_time_out_before_closing_is_no_loss(team, transport):
    team.run(2, transport, "pause", seconds=2)


@over_each_transport
@pytest.mark.parametrize("phase", ["steps", "close"])
def test_a_rank_that_ends_without_closing_is_lost(team, transport, phase):
    told = team.run(3, transport, "vanish", phase=phase)
    assert all("rank 1" in message for message in (told[0], told[2])), told


@over_each_transport
def test_closing_with_draws_on_their_way_does_no_harm(team, transport):
    team.run(3, transport, "close_at_once", times=10)


@over_each_transport
def test_making_and_closing_buffers_leaves_nothing_behind(team, transport):
    for middle, end in team.run(2, transport, "loop", times=60):
        assert end[:2] == middle[:2], "descriptors or threads are left"
        assert end[2] - middle[2] < 4e6  # bytes after 40 more; a single buffer takes 1 MB at least


# ---- Two hosts, as far as the network can tell -----------------------------------------------------------------------


@pytest.fixture
def two_networks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from namespaces import TwoHosts

    try:
        hosts = TwoHosts(tmp_path).__enter__()
    except OSError as error:
        pytest.skip(f"no network namespaces on this machine (root and `ip` make them): {error}")
    yield hosts
    hosts.__exit__()


def test_ranks_in_two_networks_draw_what_ranks_of_one_host_draw(team, two_networks):
    def apart(environment):
        job = team.job(2, environment, ("train", {"policies": POLICIES, "steps": 60}))
        ranks = [
            subprocess.Popen(
                [wrapper, str(WORKER), str(job), str(rank)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, wrapper in enumerate(two_networks.wrappers)
        ]
        for rank in ranks:
            status, _, err = finish(rank, 60)
            assert status == 0, err
        return [json.loads((job / f"result_{rank}.json").read_text())[0] for rank in range(2)]

    together = team.run(2, {}, "train", policies=POLICIES, steps=60)
    assert apart({"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "cable"}) == together


# ---- Whole runs ------------------------------------------------------------------------------------------------------

# Starting takes longer than what is computed here, so runs that are compared are jobs of one sweep. Four ranks of
# Horovod sum gradients in an order that depends on their timing: those repeat only to the last digits.

SMALL = ("scenario=class2", "backbone.hidden=[32]", "progress=false", "pictures=[]")
SAMPLES = 723, 719  # of the two tasks
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: `make horovod` builds it"
)


def sweep(engine: str, ranks: int, choices: list[str], *outputs: Path) -> list[dict]:
    """The results of a sweep repeated for each output: of each a dictionary by strategy and accumulation steps."""
    train_ranks(engine, ranks, "-m", *SMALL, *choices, "output=" + ",".join(map(str, outputs)), timeout=240)
    return [results(output) for output in outputs]


def results(output: Path) -> dict:
    found = {}
    for path in output.rglob("results.json"):
        content = json.loads(path.read_text())
        content["weights"] = torch.load(path.with_name("task_01.pt"))["model"]
        found[content["strategy"], content["config"]["gradient_accumulation_steps"]] = content
    return found


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for case, content in one.items():
        assert content["accuracy_matrix"] == other[case]["accuracy_matrix"], case
        assert content["labelled_samples"] == other[case]["labelled_samples"], case
        assert_same_weights(content, other[case], 0.0)


def assert_replayed_on_all_ranks(content: dict, ranks: int) -> None:
    draws = {"er": 1, "derpp": 2}[content["strategy"]]
    assert content["world_size"] == ranks and content["buffer"] == "native"
    assert all(torch.isfinite(weights).all() for weights in content["weights"].values())
    new = sum(samples * epochs for samples, epochs in zip(SAMPLES, content["config"]["epochs"]))
    replayed = content["labelled_samples"] - new
    # Ten records a draw on every rank in every step but the first, in however many backward passes they are trained on.
    assert replayed == (content["gradient_steps"] - 1) * ranks * draws * 10 > 0


@pytest.mark.parametrize(
    "engine, ranks, strategy",
    [("torchrun", 3, "derpp"), pytest.param("horovod", 3, "er", marks=needs_horovod)],
)
def test_runs_with_a_memory_repeat_to_the_bit(tmp_path, engine, ranks, strategy):
    once, again = sweep(engine, ranks, [f"strategy={strategy}", "epochs=[1,1]"], tmp_path / "once", tmp_path / "again")
    assert len(once) == 1
    assert_same(once, again)
    for content in once.values():
        assert_replayed_on_all_ranks(content, ranks)


@needs_horovod
def test_a_run_with_a_memory_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = (*SMALL, "epochs=[1,6]", "launcher=horovod", "launcher.np=2")
    process = start(*options, "strategy=derpp", "gradient_accumulation_steps=2", f"output={killed}")
    while "task  1/" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    finish(process)
    resume = max(killed.rglob("resume_*.pt"))
    assert len(list(resume.parent.glob(f"buffer{resume.stem.removeprefix('resume')}_rank_*.pt"))) == 2
    (first,) = killed.rglob("task_00.pt")
    made = first.stat().st_mtime_ns
    # The run is resumed in the first folder and made from the start in the second.
    resumed, once = sweep(
        "horovod", 2, ["strategy=derpp", "gradient_accumulation_steps=2", "epochs=[1,6]"], killed, whole
    )
    assert first.stat().st_mtime_ns == made, "the run was not resumed but made anew"
    assert len(once) == 1
    assert_same(once, resumed)
    for content in once.values():
        assert_replayed_on_all_ranks(content, 2)
