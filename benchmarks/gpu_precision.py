"""Images per second of ER on a GPU in fp32, bf16 and fp16, and with torch.compile (its default, and with CUDA graphs).

    python benchmarks/gpu_precision.py [--rounds 4] [--seconds 0.6] [--device cuda] [--tiny] [--json FILE]

`fp32` computes matrix products in float32 throughout (no TF32), as runs do. The modes take turns, round by round, and
each is shown over fp32 without the compiler. Compiling is not counted; its seconds are shown.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_training import TINY, Case, Remerge, cifar, keep, large, parser_of

from cl.run.device import choose_device, repeatable

# Name, precision, channels_last, mode of torch.compile.
MODES = [
    ("fp32", "fp32", False, None),
    ("bf16", "bf16", False, None),
    ("fp16", "fp16", False, None),
    ("bf16 channels_last", "bf16", True, None),
    ("fp16 channels_last", "fp16", True, None),
    ("bf16 channels_last compiled", "bf16", True, "default"),
    ("bf16 channels_last compiled with CUDA graphs", "bf16", True, "reduce-overhead"),
]
# Compiling a large network takes a minute: only where the start of kernels, or the network, is most of a step.
CASES = [
    (Case("resnet18 32x32 batch 32", cifar, 32, 32, "fp32", False, 5_000), MODES),
    (Case("resnet18 32x32 batch 256", cifar, 32, 256, "fp32", False, 10_000), MODES[:5]),
    (Case("resnet50 224x224 batch 64", large, 224, 64, "fp32", False, 1_000, 1_000), MODES[:6]),
]


def measure(case: Case, modes: list, rounds: int, seconds: float) -> list[dict]:
    """Images per second of each mode, and the ratio to the first."""
    loops, prepared, found = [], [], []
    for name, precision, channels_last, compiled in modes:
        started = time.perf_counter()
        # The same data for all modes: only what the network makes of them differs.
        layout = torch.channels_last if channels_last else torch.contiguous_format
        own = dataclasses.replace(case, precision=precision, channels_last=channels_last, compiled=compiled)
        own.device, own.layout, own.new, own.ready = case.device, layout, case.new, case.ready
        try:
            loop = Remerge(own, "er")
            loop.run(8)
            loop.run(8)
        except Exception as error:  # of the compiler, the driver or cuDNN: the other modes still count
            found.append({"case": case.name, "mode": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        loops.append((name, loop))
        prepared.append(time.perf_counter() - started)
    steps = max(8, int(8 * seconds / loops[0][1].run(8)))
    rates = {name: [] for name, _ in loops}
    for _ in range(rounds):
        for name, loop in loops:
            rates[name].append(2 * case.batch * steps / loop.run(steps))
    first = rates[loops[0][0]]
    for (name, loop), begun in zip(loops, prepared):
        ratios = sorted(a / b for a, b in zip(rates[name], first))
        rate, ratio = statistics.median(rates[name]), statistics.median(ratios)
        found.append({"case": case.name, "mode": name, "images_per_second": rate, "ratio": ratio, "prepared_s": begun})
        loop.buffer.close()
    return found


def main() -> None:
    arguments = parser_of(__doc__, rounds=4, seconds=0.6).parse_args()
    device = choose_device(arguments.device, 0)
    tiny = [mode for mode in MODES if mode[1] != "fp16" and mode[3] is None]
    found = []
    for case, modes in [(case, tiny) for case in TINY] if arguments.tiny else CASES:
        case.prepare(device)
        with repeatable(device):
            rows = measure(case, modes, arguments.rounds, arguments.seconds)
        for row in rows:
            if "error" in row:
                print(f"{row['case']}, {row['mode']}: failed, {row['error']}")
            else:
                print(
                    f"{row['case']}, {row['mode']}: {row['images_per_second']:.0f} images/s, {row['ratio']:.2f} times "
                    f"fp32, ready after {row['prepared_s']:.1f} s",
                    flush=True,
                )
        found += rows
        keep(arguments.json, found)
        del case.new, case.ready


if __name__ == "__main__":
    main()
