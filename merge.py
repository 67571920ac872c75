"""Fuse networks that were trained on one task each: the entry point of the merging half of remerge.

    python merge.py fusion=ties
    python merge.py fusion=avg,task_arithmetic -m seed=0,1,2
    python merge.py study=equal_budget -m seed=0,1,2,3,4
    python merge.py --help

Only Hydra is imported here: torch takes seconds, and `--help` or a typo should not wait for it.
"""

import hydra

from cl.run import checks, cli
from cl.run.folder import plain
from merging.choices import check_choices
from merging.study import words


def merge(config):
    if words.is_study(config):
        from merging.study.run import run as run_study

        run_study(*words.of_study(config))
        return []
    settings = plain(config)
    checks.check(settings)
    check_choices(settings)
    from merging.run import run  # imports torch

    return run(config)


@hydra.main(config_path="conf", config_name="merge", version_base="1.3")
def main(config):
    return cli.run_job(config, merge)


if __name__ == "__main__":
    cli.launch(main, "merge", words.as_one_job)
