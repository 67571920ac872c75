#!/bin/sh
# Builds the source distribution and from it the wheel, installs the wheel into a bare environment outside the checkout,
# and runs every entry point and the Python API there.
#
#   sh scripts/check_wheel.sh [FOLDER]    FOLDER keeps what was built (default: a temporary one, removed at the end)
set -eu
cd "$(dirname "$0")/.."
root=$(pwd -P)
tools=$root/.venv/bin
say() { echo "wheel: $*" >&2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dist=${1:-$work/dist}
if [ -x "$tools/uv" ]; then
    # uv does not read pip's settings (scripts/setup.sh does the same).
    mirror=${PIP_INDEX_URL:-$("$tools/python" -m pip config list | sed -n "s/^global.index-url='\(.*\)'$/\1/p")}
    if [ -n "$mirror" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}" ]; then
        export UV_DEFAULT_INDEX="$mirror"
    fi
    "$tools/uv" build -q --out-dir "$dist" .
    "$tools/uv" venv -q -p "$tools/python" "$work/bare"
    "$tools/uv" pip install -q -p "$work/bare/bin/python" "$dist"/remerge-*.whl
else
    "$tools/python" -m pip install -q build
    "$tools/python" -m build -q -o "$dist" .
    "$tools/python" -m venv "$work/bare"
    "$work/bare/bin/python" -m pip install -q "$dist"/remerge-*.whl
fi
say "built $(cd "$dist" && echo remerge-*)"

mkdir "$work/elsewhere"
cd "$work/elsewhere"
bin=$work/bare/bin
quick='epochs=1 backbone.hidden=[16] progress=false'
has() { grep -- "$1" >/dev/null || { say "$2"; exit 1; }; }  # not -q, which ends before the command has written all
"$bin/remerge-run" --help | has 'remerge-run strategy=derpp' 'remerge-run --help does not name itself'
# $quick is not quoted because it holds several words.
"$bin/remerge-run" strategy=er scenario=class2 -m seed=0,1 $quick | has '^er ' 'remerge-run printed no table'
"$bin/remerge-merge" fusion=avg scenario=class2 baselines=[] $quick | has '^avg ' 'remerge-merge printed no table'
"$bin/remerge-report" multirun | has 'written: report.md' 'remerge-report wrote nothing'
mkdir -p conf/strategy
printf 'name: mine\nmemory: false\n_target_: mine.Mine\n' >conf/strategy/mine.yaml
printf 'from cl.strategies.base import Strategy\n\n\nclass Mine(Strategy):\n    pass\n' >mine.py
"$bin/remerge-run" --config-dir conf strategy=mine 'trust=[mine]' scenario=class2 $quick |
    has '^mine ' 'remerge-run found no options of the user'
"$bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import cl
import remerge

assert Path(cl.__file__).is_relative_to(sys.prefix), cl.__file__
found = remerge.run("strategy=er", "scenario=class2", seed=0, epochs=1, progress=False, **{"backbone.hidden": [16]})
assert found.folder == remerge.load("multirun").query("strategy == 'er' and seed == 0").folder.map(Path).item()
assert found.accuracy_matrix.shape == (2, 2) and len(found.networks) == 2
assert "<table" in found._repr_html_()
PYTHON
say "every entry point and the Python API run from $("$bin/python" -c 'import remerge; print(remerge.__version__)')"
