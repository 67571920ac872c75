"""Everything that has to be shown on a GPU, in one command of a few minutes: `make gpu`.

    python benchmarks/gpu.py [--out DIR] [--device cuda] [--minutes 8] [--no-tests] [--tiny]

The tests of tests/gpu, then benchmarks/gpu_training.py (a step over a bare loop), gpu_replay.py (replay's hidden cost,
the overlap of its copies, draws), gpu_precision.py (fp32, bf16, fp16, torch.compile, CUDA graphs) and seeds.py (seeds
trained together), each as a process of its own with a part of the time. Writes DIR/gpu.json with all figures and
DIR/gpu.md, a table, which is printed too.
The exit status is 1 if a part failed; the others are written all the same.

Where there are two GPUs, hidden_cost.py trains with two ranks first (NCCL); with --device=cpu, two ranks with Gloo.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Script, arguments, and its share of the time; what one leaves is for those after it.
PARTS = {
    "ranks": ("hidden_cost.py", ["--rounds=3", "--steps=100", "--models=resnet18"], 0.1),
    "training": ("gpu_training.py", ["--rounds=3", "--seconds=0.4"], 0.25),
    "replay": ("gpu_replay.py", ["--rounds=4", "--seconds=0.4"], 0.15),
    "precision": ("gpu_precision.py", ["--rounds=3", "--seconds=0.4"], 0.27),
    "seeds": ("seeds.py", ["--rounds=3", "--seconds=0.4"], 0.08),
}
TESTS = 0.25  # of the time
AIM = 0.95  # images per second over a bare loop


def run_part(command: list[str], seconds: float) -> tuple[str, float]:
    """Run a command with its output shown; returns why it failed, or nothing, and how long it took."""
    started = time.perf_counter()
    try:
        status = subprocess.run(command, cwd=ROOT, timeout=seconds).returncode
        failed = f"exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
        failed = f"not done after {seconds:.0f} s"
    return failed, time.perf_counter() - started


def measured(arguments) -> dict:
    """The figures of all parts, and of the machine."""
    import torch

    from cl.reporting.results import versions

    cuda = arguments.device.startswith("cuda")
    content = {
        "device": torch.cuda.get_device_name(arguments.device) if cuda else arguments.device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "parts": {},
    }
    shares = {name: share for name, (_, _, share) in PARTS.items()} | {"tests": TESTS}
    if cuda and torch.cuda.device_count() < 2:
        print("one GPU: training with two ranks is left out", flush=True)
        del shares["ranks"]
    if arguments.no_tests:
        del shares["tests"]
    ends = time.monotonic() + 60 * arguments.minutes

    def time_of(name: str) -> float:
        """Seconds that a part may take: its share of what is left."""
        seconds = (ends - time.monotonic()) * shares[name] / sum(shares.values())
        del shares[name]
        return seconds

    with tempfile.TemporaryDirectory() as folder:
        for name, (script, options, _) in PARTS.items():
            if name not in shares:
                continue
            file = Path(folder) / f"{name}.json"
            options = ["--rounds=2", "--seconds=0.05", "--tiny"] if arguments.tiny else options
            words = [*options, f"--device={arguments.device}", f"--json={file}"]
            command = [sys.executable, str(ROOT / "benchmarks" / script), *words]
            failed, seconds = run_part(command, time_of(name))
            rows = json.loads(file.read_text()) if file.exists() else []
            content["parts"][name] = {"seconds": seconds, "failed": failed, "rows": rows}
    if not arguments.no_tests:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--no-header",
            "-n",
            str(min(8, os.cpu_count() or 1)),
            str(ROOT / "tests" / "gpu"),
        ]
        failed, seconds = run_part(command, time_of("tests"))
        content["tests"] = {"seconds": seconds, "failed": failed}
    return content


def table(content: dict) -> str:
    """The figures as Markdown."""
    lines = [f"{content['device']}, torch {content['torch']}, {content['date']}", ""]
    if "tests" in content:
        lines += [f"Tests on the device: {content['tests']['failed'] or 'passed'}.", ""]
    parts = {name: part["rows"] for name, part in content["parts"].items()}
    lines += [
        "| network, batch, precision | method | images/s | over bare, same kernels | over bare | wait for replay |",
        "|---|---|---|---|---|---|",
    ]
    for row in parts["training"]:
        same, plain = (1 / row["ratios"][name][0] for name in ("bare, deterministic", "bare"))
        wait = f"{row['wait_us']:.0f} us" if "wait_us" in row else ""
        lines.append(
            f"| {row['case']} | {row['method']} | {row['images_per_second']:.0f} | {same:.2f} | {plain:.2f} | {wait} |"
        )
    lines += ["", f"Images per second over those of a bare loop: the aim is {AIM}.", ""]
    lines += [
        "| network, batch, precision | er over twice the new | copies | of it beside kernels | a draw, on the device | "
        "in host memory | in pinned memory | over a copy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in parts["replay"]:
        hidden, overlap, draws = row["hidden"], row["overlap"], row["draws"]
        beside = "" if overlap["beside_kernels"] is None else f"{overlap['beside_kernels']:.0%}"
        lines.append(
            f"| {row['case']} | {hidden['ratio']:.3f} (limit {hidden['limit']}) | {overlap['copy_ms']:.3f} ms a step | "
            f"{beside} | {draws['us'][0]:.0f} us for {draws['bytes'] / 1e6:.2f} MB | {draws['host_us']:.0f} us | "
            f"{draws['pinned_us']:.0f} us | {draws['ratio']:.2f} |"
        )
    if "ranks" in parts:
        lines += ["", "| network, two ranks | images/s | er over as many new samples | wait for replay |"]
        lines += ["|---|---|---|---|"]
    for row in parts.get("ranks", []):
        ratio = statistics.median(ours / theirs for ours, theirs in row["pairs"])
        wait = statistics.median(row["shares"])
        lines.append(f"| {row['model']} | {row['images_per_second']:.0f} | {ratio:.3f} | {wait:.2%} of the time |")
    lines += ["", "| network, batch | er with | images/s | over fp32 |", "|---|---|---|---|"]
    for row in parts["precision"]:
        if "error" in row:
            lines.append(f"| {row['case']} | {row['mode']} | failed: {row['error'][:80]} | |")
        else:
            lines.append(f"| {row['case']} | {row['mode']} | {row['images_per_second']:.0f} | {row['ratio']:.2f} |")
    lines += ["", "| seeds, method | together | one after the other | ratio |", "|---|---|---|---|"]
    for row in parts["seeds"]:
        together, separate = (f"{row['ms'][way]:.2f} ms a step" for way in ("together", "separate"))
        lines.append(f"| {row['seeds']}, {row['method']} | {together} | {separate} | {row['ratios'][0]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "multirun" / "gpu", help="folder for the figures")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all of it may take")
    parser.add_argument("--no-tests", action="store_true", help="leave out tests/gpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that all parts work")
    arguments = parser.parse_args()
    from cl.run.device import choose_device

    try:
        choose_device(arguments.device, 0)
    except ValueError as error:
        print(f"error: {error}; on a machine without a GPU: --device=cpu --tiny", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = measured(arguments)
    (arguments.out / "gpu.json").write_text(json.dumps(content, indent=1))
    text = table(content)
    (arguments.out / "gpu.md").write_text(text)
    print(text)
    print(f"written: {arguments.out / 'gpu.json'}, {arguments.out / 'gpu.md'}")
    failed = {name: part["failed"] for name, part in content["parts"].items() if part["failed"]}
    failed |= {"tests": content["tests"]["failed"]} if content.get("tests", {}).get("failed") else {}
    for name, why in failed.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
