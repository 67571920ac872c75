"""Sends finished runs to loggers: `python -m cl.report PATH... --wandb --tensorboard`. Needs no torch.

All is read from results.json, metrics.csv, strategy_metrics.csv and anytime.csv. A run that wandb has already is left
out, and event files of TensorBoard are replaced, so it can be repeated.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from cl.build import checked_options
from cl.checksums import read_json
from cl.reporting import screen
from cl.reporting.groups import load
from cl.reporting.loggers import told
from cl.reporting.loggers.base import Logger
from cl.reporting.loggers.several import Loggers
from cl.reporting.loggers.tensorboard import TensorBoardLogger
from cl.reporting.loggers.wandb import FILES, WandbLogger, in_sweep
from cl.reporting.reading import read_results
from cl.signatures import parameters_of

STUDY = "study.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="send the runs to Weights & Biases; WANDB_MODE=offline writes files for `wandb sync` (docs/loggers.md)",
    )
    parser.add_argument("--wandb-project", default="remerge", metavar="NAME", help="(default: remerge)")
    parser.add_argument("--wandb-entity", metavar="NAME", help="user or team (default: that of the account)")
    parser.add_argument("--wandb-artifacts", choices=FILES, default="none", help="files to upload (default: none)")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into each run's folder")


def sender(arguments: argparse.Namespace) -> Callable[[list[Path]], None]:
    """What sends the runs and studies at or below some paths to the loggers that were asked for.

    Raises ValueError at once for a logger that cannot work here.
    """
    kinds: dict[str, Callable[[], Logger]] = {}
    if arguments.wandb:
        node = {
            "project": arguments.wandb_project,
            "entity": arguments.wandb_entity,
            "mode": os.environ.get("WANDB_MODE") or "online",
            "tags": [],
            "artifacts": arguments.wandb_artifacts,
        }
        options = checked_options(node, "logger.wandb", parameters_of("cl.reporting.loggers.wandb.WandbLogger"))
        kinds["wandb"] = lambda: _silent(WandbLogger(**options))
    if arguments.tensorboard:
        kinds["tensorboard"] = TensorBoardLogger
    for make in kinds.values():
        make()
    return lambda paths: _send(paths, kinds)


def _send(paths: list[Path], kinds: dict[str, Callable[[], Logger]]) -> None:
    if not kinds:
        return
    studies = [path if path.name == STUDY else path / STUDY for path in paths]
    studies = [path for path in studies if path.is_file()]
    others = [path for path in paths if path not in studies and path / STUDY not in studies]
    groups = load(others) if others else []
    files = dict.fromkeys(file for group in groups for file in group.files)  # a merge is in two groups
    sent, failed = dict.fromkeys(kinds, 0), []
    for path in (*studies, *files):
        loggers = {name: make() for name, make in kinds.items()}
        asked = {name: logger for name, logger in loggers.items() if not _has(logger, path.parent)}
        if asked:
            screen.say(f"{', '.join(asked)}: {screen.place(path.parent)}")
            if not _tell(Loggers(asked), path):
                failed.append(screen.place(path.parent))
                continue
        for name in asked:
            sent[name] += 1
    for name, number in sent.items():
        there = len(studies) + len(files) - number - len(failed)
        screen.say(f"{name}: {number} sent" + (f", {there} had been sent before" if there else ""))
    if failed:
        raise ValueError(f"{', '.join(failed)} could not be sent as a whole, see above: give the command again")


def _silent(logger: WandbLogger) -> WandbLogger:
    logger.silent = True  # it would print a page for each run
    return logger


def tell_agent(folder: Path, nodes: dict[str, dict]) -> None:
    """Tell wandb of a run that was found finished, in the run that the agent of a sweep has chosen for it.

    `nodes`: those of `logger`. Otherwise the agent would wait for a result that never comes.
    """
    if in_sweep() and "wandb" in nodes:
        _tell(Loggers.of_config({"wandb": nodes["wandb"]}), folder / "results.json")


def _has(logger: Logger, folder: Path) -> bool:
    return isinstance(logger, WandbLogger) and logger.is_complete(folder)


def _tell(loggers: Loggers, path: Path) -> bool:
    """Whether all of it has arrived."""
    study = path.name == STUDY
    content = read_json(path) if study else read_results(path)
    try:
        config = {"study": content["name"]} if study else content["config"]
        loggers.start(path.parent, config, content.get("kind", "study"))
        if not study:
            told.replay(loggers, path.parent, content)
        loggers.finish(content)
    finally:
        loggers.close()
    return not loggers.failed
