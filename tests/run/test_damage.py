"""A short campaign of `benchmarks/damage.py`; the long ones are in its documentation."""

import forkserver
from support import ROOT


def test_damage_is_one_line_or_changes_no_number():
    done = forkserver.run(
        [ROOT / "benchmarks" / "damage.py", "--places", "4", "--cases", "resumed", "--seed", "3"], cwd=ROOT
    )
    assert done.returncode == 0 and "4 places in" in done.stdout, done.stdout + done.stderr
