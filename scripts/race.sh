#!/bin/sh
# Race against Avalanche: `make race`, with RACE_ARGS for benchmarks/race.py. Builds .race first, an environment with
# Avalanche from PyPI and the torch and torchvision of .venv, once: 20 seconds from uv's cache, else minutes.
# TORCH_INDEX: the index that .venv's torch came from, if it is not PyPI (scripts/setup.sh).
set -eu
cd "$(dirname "$0")/.."
avalanche=0.6.0
venv=.venv/bin/python
race=.race
stamp=$race/race-done

say() { echo "race: $*" >&2; }
version() { $venv -c "import importlib.metadata as m; print(m.version('$1').partition('+')[0])"; }
torch="torch==$(version torch) torchvision==$(version torchvision)"
wanted="avalanche-lib==$avalanche $torch $(pwd -P) $(printf %s "${TORCH_INDEX:-}" | cksum)"

if [ "$wanted" != "$(cat $stamp 2>/dev/null)" ]; then
    say "building $race with avalanche-lib $avalanche and $torch"
    rm -rf $race
    base=$($venv -c 'import sys; print(sys._base_executable)')
    if [ -x .venv/bin/uv ]; then
        # uv does not read pip's settings (scripts/setup.sh does the same).
        mirror=${PIP_INDEX_URL:-$($venv -m pip config list | sed -n "s/^global.index-url='\(.*\)'$/\1/p")}
        if [ -n "$mirror" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}" ]; then
            export UV_DEFAULT_INDEX="$mirror"
        fi
        .venv/bin/uv venv -q --python "$base" $race
        install() { .venv/bin/uv pip install -q --python $race/bin/python "$@"; }
        only_from=--default-index
    else
        "$base" -m venv $race
        install() { $race/bin/python -m pip install -q --disable-pip-version-check "$@"; }
        only_from=--index-url
    fi
    # $torch is not quoted because it holds two requirements, which come from one index and stay as they are.
    install ${TORCH_INDEX:+$only_from "$TORCH_INDEX"} $torch ||
        { say "could not install $torch; if it is not from PyPI, set TORCH_INDEX as for make setup"; exit 1; }
    install "avalanche-lib==$avalanche" $torch ||
        { say "could not install avalanche-lib $avalanche beside $torch: no race"; exit 1; }
    printf '%s' "$wanted" >$stamp
fi
exec $venv benchmarks/race.py "$@"
