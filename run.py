"""Train one strategy on one scenario: the entry point of the rehearsal half of remerge.

    python run.py strategy=derpp scenario=class10 -m seed=0,1,2
    python run.py --help

Only Hydra is imported here: torch takes seconds, and `--help` or a typo should not wait for it.
"""

import hydra

from cl.run import cli


@hydra.main(config_path="conf", config_name="run", version_base="1.3")
def main(config):
    return cli.run_job(config)


if __name__ == "__main__":
    cli.launch(main, "run")
