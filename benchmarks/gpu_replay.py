"""What replay costs on a GPU beyond its additional samples, and whether its copies are made while the GPU computes.

    python benchmarks/gpu_replay.py [--rounds 5] [--seconds 0.8] [--device cuda] [--tiny] [--json FILE]

hidden   A step of ER on n new and n replayed samples over a step of fine-tuning on 2 n new ones: same network, same
         number of samples. Limit 1.02.
overlap  From a profile of ER's steps: of the time in which memory is copied between host and GPU, the part in which a
         kernel computes as well.
draws    A draw from the replay memory in host memory until it is on the GPU, with nothing else to do, over a plain copy
         of as many bytes from pinned memory; and how long it takes until it is in host memory, and in pinned memory.
"""

import dataclasses
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_training import CASES, TINY, Case, Remerge, keep, now, parser_of

from cl.run.device import choose_device, repeatable

LIMIT = 1.02
PROFILED = 20  # steps


def hidden(case: Case, rounds: int, seconds: float) -> dict:
    """Milliseconds per step of both loops, and the ratios of the rounds."""
    plain = dataclasses.replace(case, batch=2 * case.batch).prepare(case.device)
    loops = [Remerge(case, "er"), Remerge(plain, "finetune")]
    for loop in loops:
        loop.run(8)
        loop.run(8)
    steps = max(8, int(8 * seconds / loops[0].run(8)))
    pairs = [[1e3 * loop.run(steps) / steps for loop in loops] for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    loops[0].buffer.close()
    ms = [statistics.median(times) for times in zip(*pairs)]
    return {"ms": ms, "ratio": statistics.median(ratios), "from": ratios[0], "to": ratios[-1], "limit": LIMIT}


def overlap(case: Case) -> dict:
    """Milliseconds of copies per step, and the part of them during which a kernel computed."""
    loop = Remerge(case, "er")
    loop.run(8)
    kinds = torch.profiler.ProfilerActivity
    activity = kinds.CUDA if case.device.type == "cuda" else kinds.CPU
    with torch.profiler.profile(activities=[activity], acc_events=True) as profile:
        loop.run(PROFILED)
    loop.buffer.close()
    copies, kernels = [], []
    for event in profile.profiler.kineto_results.events():
        if event.device_type() != torch.autograd.DeviceType.CUDA or event.duration_ns() == 0:
            continue
        span = event.start_ns(), event.start_ns() + event.duration_ns()
        name = event.name()
        if name.startswith(("Memcpy HtoD", "Memcpy DtoH")):
            copies.append(span)
        elif not name.startswith(("Memcpy", "Memset")):
            kernels.append(span)
    kernels = joined(kernels)
    copied = sum(end - begin for begin, end in copies)
    beside = sum(max(0, min(end, e) - max(begin, b)) for begin, end in copies for b, e in kernels if b < end)
    return {"copy_ms": copied / PROFILED / 1e6, "beside_kernels": beside / copied if copied else None}


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of some spans of time, in order."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


def draws(case: Case, rounds: int, times: int = 30) -> dict:
    """Microseconds per draw of `batch` records on the device, and the ratio to a copy of its bytes."""
    loop, device = Remerge(case, "er"), case.device
    buffer = loop.buffer
    buffer.request(case.batch)
    columns = buffer.receive().columns
    nbytes = sum(column.nbytes for column in columns.values())
    pinned = torch.empty(nbytes, dtype=torch.uint8)
    pinned = pinned.pin_memory() if device.type == "cuda" else pinned
    there = torch.empty(nbytes, dtype=torch.uint8, device=device)

    def draw():
        buffer.request(case.batch)
        buffer.receive()

    def timed(call) -> float:
        call()
        started = now(device)
        for _ in range(times):
            call()
        return 1e6 * (now(device) - started) / times

    def draw_on_host(pin: bool):
        buffer.request(case.batch)
        for column in buffer.receive().columns.values():
            if pin:
                column.pin_memory() if device.type == "cuda" else column.clone()

    pairs = [(timed(draw), timed(lambda: there.copy_(pinned, non_blocking=True))) for _ in range(rounds)]
    buffer.device = torch.device("cpu")  # from here on draws stay in host memory
    host_us, pinned_us = (
        statistics.median(timed(lambda: draw_on_host(pin)) for _ in range(rounds)) for pin in (False, True)
    )
    buffer.close()
    ratios = sorted(a / b for a, b in pairs)
    us = [statistics.median(values) for values in zip(*pairs)]
    found = {"bytes": nbytes, "us": us, "ratio": statistics.median(ratios), "from": ratios[0], "to": ratios[-1]}
    return found | {"host_us": host_us, "pinned_us": pinned_us}


def main() -> None:
    arguments = parser_of(__doc__, rounds=5, seconds=0.8).parse_args()
    device = choose_device(arguments.device, 0)
    found = []
    for case in TINY if arguments.tiny else CASES:
        case.prepare(device)
        with repeatable(device):
            entry = {"case": case.name, "hidden": hidden(case, arguments.rounds, arguments.seconds)}
            entry["overlap"] = overlap(case)
            entry["draws"] = draws(case, arguments.rounds)
        found.append(entry)
        h, o, d = entry["hidden"], entry["overlap"], entry["draws"]
        print(
            f"{case.name}: er {h['ms'][0]:.3f} ms, twice the new samples {h['ms'][1]:.3f} ms, ratio {h['ratio']:.3f} "
            f"({h['from']:.3f} to {h['to']:.3f}), limit {LIMIT}"
        )
        beside = "none seen" if o["beside_kernels"] is None else f"{o['beside_kernels']:.0%} of it beside kernels"
        print(f"    copies {o['copy_ms']:.3f} ms a step, {beside}")
        print(
            f"    a draw of {d['bytes'] / 1e6:.2f} MB {d['us'][0]:.0f} us, in host memory {d['host_us']:.0f} us, in "
            f"pinned memory {d['pinned_us']:.0f} us; a pinned copy {d['us'][1]:.0f} us, ratio {d['ratio']:.2f} "
            f"({d['from']:.2f} to {d['to']:.2f})",
            flush=True,
        )
        keep(arguments.json, found)
        del case.new, case.ready


if __name__ == "__main__":
    main()
