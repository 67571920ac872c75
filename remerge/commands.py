"""The commands: those of run.py and merge.py in a checkout, and remerge-run, remerge-merge ... of an installation.

Only Hydra is imported here: torch takes seconds, and `--help` or a typo should not wait for it.
"""

import runpy

import hydra

from cl.configuration.place import CONF, HOROVOD
from cl.jobs import ahead
from cl.run import cli
from merging.command import merge as do_merge
from merging.study import words


@hydra.main(config_path=str(CONF), config_name="run", version_base="1.3")
def _run(config):
    return cli.run_job(config)


@hydra.main(config_path=str(CONF), config_name="merge", version_base="1.3")
def _merge(config):
    return cli.run_job(config, do_merge)


def _prepared(overrides: list[str], flags: list[str]) -> tuple[list[str], list[str]]:
    return ahead.start(*words.as_one_job(overrides, flags), ("merging.run",))


def run() -> None:
    """`remerge-run`: train one strategy on one scenario."""
    cli.launch(_run, "run", ahead.start)


def merge() -> None:
    """`remerge-merge`: fuse networks that were trained on one task each, or do a study."""
    cli.launch(_merge, "merge", _prepared)


def report() -> None:
    """`remerge-report`: tables and plots of finished runs."""
    from cl.reporting.report import main

    main()


def horovod() -> None:
    """`remerge-horovod`: build Horovod for the installed torch."""
    runpy.run_path(str(HOROVOD), run_name="__main__")
