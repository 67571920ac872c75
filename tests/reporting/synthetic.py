"""A study folder with made-up numbers in the schema of real runs: what the page's tests read."""

import json
from pathlib import Path

import numpy as np

ONE = 88_050  # bytes of a network
# name, school, strategy or fusion, mean accuracy at each budget, networks kept, passes in those of the budget
ROWS = (
    ("er", "rehearsal", "er", (0.80, 0.87, 0.90), 1, 1.0),
    ("derpp", "rehearsal", "derpp", (0.90, 0.957, 0.945), 1, 1.01),
    ("er_ace", "rehearsal", "er_ace", (0.84, 0.91, 0.93), 1, 0.99),
    ("agem", "rehearsal", "agem", (0.40, 0.45, 0.47), 1, 1.0),
    ("gdumb", "rehearsal", "gdumb", (0.82, 0.90, 0.94), 1, 1.0),
    ("avg + fine-tuning", "merging", "avg", (0.841, 0.926, 0.961), 5, 1.0),
    ("avg + fine-tuning, independent, running", "merging", "avg", (0.80, 0.90, 0.95), 2, 1.0),
    ("regmean + fine-tuning", "merging", "regmean", (0.912, 0.948, 0.967), 5, 0.98),
    ("ties + fine-tuning", "merging", "ties", (0.835, 0.925, 0.958), 5, 1.0),
    ("er, averaged after each task", "both", "avg", (0.81, 0.88, 0.91), 2, 1.0),
    ("untrained + the same samples", "control", "avg", (0.829, 0.919, 0.954), 1, 0.4),
    ("last task's network + the same samples", "control", "avg", (0.81, 0.90, 0.94), 1, 0.8),
)
ALIKE = (
    ("avg, alone", "merging", "avg", 0.30, 5, 0.6),
    ("ensemble", "merging", "ensemble", 0.55, 5, 0.6),
    ("finetune", "bound", "finetune", 0.19, 1, 1.0),
    ("joint, same passes", "bound", "joint", 0.972, 1, 1.0),
    ("scratch", "bound", "scratch", 0.965, 1, 3.0),
)
BUDGETS = (("50 samples", 50 * 80), ("200 samples", 200 * 80), ("880 samples", 880 * 80))
PASSES = 14_370


def results(seed: int, school: str, method: str, accuracy: float, networks: int, samples: int, passes: float) -> dict:
    """The content of a results.json."""
    merge = school in ("merging", "both", "control")
    strategy = ("er" if school == "both" else "independent") if merge else method
    forward = round(PASSES * passes)
    persistent = {"networks": networks * ONE, "start": 0, "samples": samples, "statistics": 0}
    if method == "regmean":
        persistent["statistics"] = 123_456
    return {
        "schema": "remerge.results/2", "kind": "merge" if merge else "run", "strategy": strategy, "scenario": "class5",
        "dataset": "digits", "backbone": "mlp", "seed": seed, "group": f"{school} {method} {samples}", "world_size": 1,
        **({"fusion": method} if merge else {}), "buffer_capacity": samples // 80 or None if not merge else None,
        "average_accuracy": accuracy, "task_average_accuracy": min(1, accuracy + 0.02), "task_aware": False,
        "forgetting": None if merge else 0.9 - 0.9 * accuracy, "train_seconds": 1.5 + seed / 10,
        "accuracy_so_far": None if merge else [0.99, accuracy], "persistent": persistent,
        "persistent_bytes": sum(persistent.values()), "optimizer_bytes": ONE if not merge else 0,
        "forward_passes": forward, "backward_passes": forward,
        "unlabelled_forward_passes": 1437 if method == "regmean" else 0, "unlabelled_backward_passes": 0,
        "passes": forward + (1437 / 3 if method == "regmean" else 0), "flops": forward * 3 * 44_000,
        "versions": {"remerge": "0.2.0", "git_commit": "abc1234", "python": "3.12.1", "torch": "2.11.0"},
        "config": {
            "seed": seed, "strategy": {"name": strategy, "memory": school in ("rehearsal", "both")},
            "dataset": {"name": "digits"}, "loader": {"name": "workers"}, "optimizer": {"lr": 0.1},
            "buffer": {"timeout": 30.0},
        },
    }  # fmt: skip


def write_study(folder: Path, seeds=(0, 1, 2, 3, 4), budgets=BUDGETS, search: bool = True, number: int = 0) -> dict:
    """Writes study.json and its results below a folder; the seeds of a row share luck, so that pairs pay."""
    rng = np.random.default_rng(number)
    luck = dict(zip(seeds, rng.normal(0, 0.01, len(seeds))))
    rows = []

    def add(place, name, school, method, accuracy, networks, passes):
        own = rng.normal(0, 0.004, len(seeds))
        samples = 0 if place is None else budgets[place][1]
        runs = []
        for seed, noise in zip(seeds, own):
            path = Path("runs", f"{len(rows):02d}_{method}", f"seed{seed}", "results.json")
            reached = float(np.clip(accuracy + luck[seed] + noise, 0, 1))
            (folder / path).parent.mkdir(parents=True)
            content = results(seed, school, method, reached, networks, samples, passes)
            (folder / path).write_text(json.dumps(content | {"group": f"{len(rows)}"}))
            runs.append(str(path))
        entry = {
            "name": name, "school": school, "budget": None if place is None else budgets[place][0],
            "command": f"python {'run' if school in ('rehearsal', 'bound') else 'merge'}.py study=equal_budget "
            f"'row={name}' -m seed=0,1,2,3,4",
            "rate": 0.1 if search else None, "held_out": accuracy if search else None, "runs": runs,
            "why": None if 0.98 <= passes <= 1.02 else "it trains until it has converged" if passes > 1
            else "merging alone needs no more passes", "failed": [],
        }  # fmt: skip
        rows.append(entry)

    for name, school, method, accuracies, networks, passes in ROWS:
        for place in range(len(budgets)):
            add(place, name, school, method, accuracies[place], networks, passes)
    for row in ALIKE:
        add(None, *row)
    study = {
        "schema": "remerge.study/1", "name": "equal_budget", "scenario": "class5", "dataset": "digits",
        "backbone": "mlp", "seeds": list(seeds),
        "command": f"python merge.py study=equal_budget -m seed={','.join(map(str, seeds))}",
        "training_samples": 1437,
        "budgets": [{"name": name, "kind": "samples", "bytes": size, "passes": PASSES} for name, size in budgets],
        "search": {"rates": [0.03, 0.1, 0.3], "validation": 0.1, "seeds": [0]} if search else None, "rows": rows,
    }  # fmt: skip
    save(folder, study)
    return study


def save(folder: Path, study: dict) -> None:
    """Writes study.json."""
    (folder / "study.json").write_text(json.dumps(study))
