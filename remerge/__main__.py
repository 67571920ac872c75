"""`python -m remerge run strategy=er`: the commands without their scripts, as ranks on other hosts are started."""

import sys

from remerge import commands

COMMANDS = {"run": commands.run, "merge": commands.merge, "report": commands.report}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m remerge {'|'.join(COMMANDS)} ...; python -m remerge run --help says more")
    COMMANDS[sys.argv.pop(1)]()
