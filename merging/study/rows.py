"""The rows of a study: which commands make each, and which of their settings the budgets decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from merging.study.options import Options

School = Literal["rehearsal", "merging", "both", "frozen features", "bound", "control"]


@dataclass(frozen=True)
class Facts:
    """What the rows depend on, found by building everything once.

    `fusions`: by name, whether it needs a common init (`needs_initial`), gives weights (`weights`), how many networks
    it takes at most (`most_models`), whether it trains on stored samples itself (`trains`), and whether it looks at
    samples of each task (`looks`), of which those of earlier tasks have to be stored where it merges task by task, and
    at the end as well if it looks at those of all tasks `together`.
    """

    training_samples: int
    task_samples: list[int]
    sample_bytes: int  # of one with its label and task
    batch_norm: bool
    learning_rate: float
    small_network: bool
    gpus: list[str] | None  # None: no GPU is used; []: the one that the user has chosen
    memories: dict[str, bool]  # of strategies by name: whether they store samples
    fusions: dict[str, dict]
    untrained: Sequence[str] = ()  # strategies that take no gradient steps

    @property
    def num_tasks(self) -> int:
        return len(self.task_samples)


@dataclass(frozen=True)
class Row:
    """One method: `words` choose it in `command`; for `both`, `base` chooses the run whose networks are merged.

    `stores`: the setting that the memory budget decides, if there is one. `trains`: the setting that, beside `epochs`,
    the compute budget decides: how long a merge trains on stored samples. `share`: of the compute budget, how much that
    is. `all_stored`: everything is stored, whatever the memory budget.
    """

    name: str
    school: School
    command: Literal["run", "merge"]
    words: tuple[str, ...]
    stores: Literal["buffer.capacity", "finetune_samples", "fusion.samples_per_task", "images"] | None = None
    trains: Literal["finetune_epochs", "fusion.epochs"] | None = None
    share: float = 0.0
    looks: bool = False  # whether the fusion looks at the stored samples
    base: tuple[str, ...] | None = None
    multiples: tuple[float, ...] = ()  # of the passes, of which the held-out accuracy chooses
    all_stored: bool = False
    network_epochs: float | None = None  # of the task networks, where the compute budget does not decide them
    partly: str = ""  # why the row is not meant to use its whole compute budget
    once: bool = False  # whether it sees each sample once, whatever the compute budget, and has no learning rate

    @property
    def every_budget(self) -> bool:
        """Whether the row is the same under all budgets of memory."""
        return self.stores is None


def rows_of(options: Options, facts: Facts) -> list[Row]:
    """All rows in the order of the tables."""
    return [
        *_bounds(options),
        *_rehearsal(options, facts),
        *_merging(options, facts),
        *_both(options, facts),
        *_controls(options, facts),
    ]


def samples_words(row: Row, count: int, facts: Facts) -> tuple[str, ...]:
    """The settings with which a row stores so many samples, equally many of each task where it is a merge."""
    words: tuple[str, ...] = ()
    if row.stores == "buffer.capacity":
        words = (f"buffer.capacity={count}",)
    elif row.stores == "finetune_samples":
        words = (f"finetune_samples={count // facts.num_tasks * facts.num_tasks}",)
    if row.looks or row.stores == "fusion.samples_per_task":
        words += (f"fusion.samples_per_task={count // facts.num_tasks}",)
    if row.command == "merge" and facts.batch_norm:  # what recalibrates batch-norm is among the stored samples
        words += (f"batch_norm_samples={max(2, count)}",)
    return words


def most_samples(row: Row, facts: Facts) -> int:
    """How many samples a row has any use for."""
    return facts.training_samples if row.stores == "buffer.capacity" else facts.num_tasks * max(facts.task_samples)


def fewest_samples(row: Row, facts: Facts) -> int:
    """How few samples a row can work with."""
    return 1 if row.stores == "buffer.capacity" else facts.num_tasks


def _bounds(options: Options) -> Iterator[Row]:
    for name in options.bounds:
        if name == "joint_converged":
            words, multiples = ("strategy=joint",), tuple(options.multiples)
            yield Row(
                "joint, to convergence", "bound", "run", words, multiples=multiples, partly="trained until convergence"
            )
        else:
            yield Row(name, "bound", "run", (f"strategy={name}",))


def _rehearsal(options: Options, facts: Facts) -> Iterator[Row]:
    for name in options.strategies:
        words = (f"strategy={name}", *options.words.get(name, ()))
        if name in facts.untrained:
            yield Row(name, "frozen features", "run", words, partly="sees each sample once", once=True)
        else:
            yield Row(name, "rehearsal", "run", words, stores=_memory(name, facts))


def _memory(strategy: str, facts: Facts) -> Literal["buffer.capacity"] | None:
    """The setting that the memory budget decides for a strategy, if it has a memory."""
    return "buffer.capacity" if facts.memories[strategy] else None


def _merging(options: Options, facts: Facts) -> Iterator[Row]:
    for fusion in options.fusions:
        about = facts.fusions[fusion]
        for init in options.inits:
            if about["needs_initial"] and init == "independent":
                continue
            for order in options.orders:
                if not _can(about, order, facts.num_tasks):
                    continue
                for finetune in (False,) if about["trains"] or not about["weights"] else options.finetune:
                    yield _merge_row(options, facts, fusion, init, order, finetune)


def _can(about: dict, order: str, num_tasks: int) -> bool:
    """Whether a fusion can merge in this order."""
    if order == "running":
        return about["weights"]
    return about["most_models"] is None or num_tasks <= about["most_models"]


def _merge_row(options: Options, facts: Facts, fusion: str, init: str, order: str, finetune: bool) -> Row:
    about = facts.fusions[fusion]
    parts = [f"{fusion} + fine-tuning" if finetune else fusion]
    parts += [init] * (init != "shared") + [order] * (order == "running")
    words = (f"fusion={fusion}", f"strategy.init={init}", *(("running=true",) if order == "running" else ()))
    words += tuple(options.words.get(fusion, ()))
    stores, trains, looks = None, None, about["looks"] and (order == "running" or about["together"])
    if about["trains"]:
        stores, trains = "fusion.samples_per_task", "fusion.epochs"
    elif finetune:
        stores, trains = "finetune_samples", "finetune_epochs"
    elif looks or facts.batch_norm and about["weights"]:
        stores = "images"
    share = options.memory_share if trains else 0.0
    return Row(", ".join(parts), "merging", "merge", words, stores, trains, share, looks)


def _both(options: Options, facts: Facts) -> Iterator[Row]:
    for name in options.both:
        base = (f"strategy={name}", *options.words.get(name, ()))
        merged = ("fusion=avg", "running=true")
        yield Row(f"{name}, averaged over tasks", "both", "merge", merged, stores=_memory(name, facts), base=base)
        if options.ema is not None:
            words = (*base, f"ema={options.ema:g}")
            yield Row(f"{name}, averaged over steps", "both", "run", words, stores=_memory(name, facts))


def _controls(options: Options, facts: Facts) -> Iterator[Row]:
    if not options.controls:
        return
    share, merge = options.memory_share, ("control", "merge")
    tuned = {
        "stores": "finetune_samples", "trains": "finetune_epochs", "network_epochs": (1 - share) * options.passes,
    }  # fmt: skip
    untrained = ("fusion=untrained", "strategy.init=shared")
    name, alone = "untrained network + fine-tuning", "has the passes of fine-tuning alone"
    yield Row(name, *merge, untrained, **tuned, share=share, partly=alone)
    yield Row(f"{name}, all passes", *merge, untrained, **tuned, share=1.0)
    last = ("fusion=last", "strategy.init=shared")
    alone = "has the passes of one task's network and of fine-tuning"
    yield Row("last task's network + fine-tuning", *merge, last, **tuned, share=share, partly=alone)
    if any(about["trains"] for about in facts.fusions.values()):
        words = ("fusion=curve", "strategy.init=shared", "fusion.ends=untrained", "fusion.init=random")
        words += tuple(options.words.get("curve", ()))
        tuned |= {"stores": "fusion.samples_per_task", "trains": "fusion.epochs"}
        alone = "has the passes of the curve alone"
        yield Row("curve between untrained networks", *merge, words, **tuned, share=share, partly=alone)
    for name in ("er", "derpp"):
        words = (f"strategy={name}", f"buffer.capacity={facts.training_samples}", *options.words.get(name, ()))
        yield Row(f"{name}, everything stored", "control", "run", words, all_stored=True)
