#!/bin/sh
# Builds .venv with everything remerge needs. `make` calls this before every target, so it first asks whether
# anything changed and returns at once if not.
#
#   PYTHON       interpreter to build .venv from (default: the first of python3, python3.13 ... that is new enough)
#   CXX          C++ compiler (default: c++, g++ or clang++)
#   TORCH_INDEX  URL of a package index holding another build of torch and torchvision (CPU only, another CUDA)
#
# PYTHON and TORCH_INDEX are remembered: they need not be given again, and giving another value rebuilds .venv.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# ---- Anything to do? ----------------------------------------------------------------------------------------------
# The stamp is removed before the first change and written after the last, so an interrupted set-up never counts as
# done. cksum, because it is in every POSIX system; no Python is started here, that alone would take longer.
venv=.venv
stamp=$venv/setup-done
files=$(cat pyproject.toml setup.py scripts/setup.sh native/build_ffi.py native/include/* native/src/* | cksum)
place=$(pwd -P)  # a venv holds absolute paths: after a move it must be rebuilt
index=$(printf %s "${TORCH_INDEX:-}" | cksum)  # hashed, because such a URL may hold a password
python=
if [ -n "${PYTHON:-}" ]; then python=$(command -v "$PYTHON" || true); fi

old_files= old_place= old_python= old_index=
if [ -f "$stamp" ]; then
    { read -r old_files && read -r old_place && read -r old_python && read -r old_index; } <"$stamp" || true
fi
same_venv=no  # is the .venv there the one that is wanted, whatever is installed in it?
if [ -x $venv/bin/python ] && [ "$place" = "$old_place" ] &&
    { [ -z "${PYTHON:-}" ] || [ "$python" = "$old_python" ]; } &&
    { [ -z "${TORCH_INDEX:-}" ] || [ "$index" = "$old_index" ]; }; then
    same_venv=yes
fi
if [ $same_venv = yes ] && [ "$files" = "$old_files" ]; then exit 0; fi

# ---- What the machine must bring ----------------------------------------------------------------------------------
# how_to APT DNF MAC CONDA: the command that installs something here, and one that needs no administrator.
how_to() {
    if command -v apt-get >/dev/null; then echo "install it with: sudo apt install $1 (without root: $4)"
    elif command -v dnf >/dev/null; then echo "install it with: sudo dnf install $2 (without root: $4)"
    elif [ "$(uname)" = Darwin ]; then echo "install it with: $3 (without Homebrew or Xcode: $4)"
    else echo "install it with your package manager, e.g. apt install $1 / dnf install $2 (without root: $4)"
    fi
}
missing=no

# One run tells the version and the interpreter behind a venv or a shim; the venv is built from that one, because the
# venv in use may be the very .venv that is about to be replaced.
ask='import sys; print(*sys.version_info[:2], getattr(sys, "_base_executable", sys.executable))'
conda_python='micromamba create -n remerge -c conda-forge python=3.12, then PYTHON=<its path>'
if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11 python3.10; fi
base= found=
for candidate; do
    answer=$("$candidate" -c "$ask" 2>/dev/null) || continue
    read -r major minor executable <<EOF
$answer
EOF
    if [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 10 ]; }; then
        python=$(command -v "$candidate") base=$executable
        break
    fi
    found="$found${found:+, }$candidate is $major.$minor"
done
if [ -z "$base" ]; then
    say "missing Python >= 3.10 (found: ${found:-no $1 that starts});" \
        "$(how_to 'python3 python3-venv' python3 'brew install python' "$conda_python")"
    missing=yes
elif ! "$base" -c 'import venv, ensurepip' 2>/dev/null; then
    # Debian and Ubuntu ship these two in a package of their own.
    say "missing the venv and ensurepip modules of $base (Python $major.$minor);" \
        "$(how_to "python$major.$minor-venv" python3 'brew install python' "$conda_python")"
    missing=yes
fi

# The replay buffer is compiled below. Compiling one header now finds the compiler that is there in name only:
# the macOS stand-in without the command line tools, a clang++ without the C++ headers.
if [ -n "${CXX:-}" ]; then set -- "$CXX"; else set -- c++ g++ clang++; fi
compiler= found=
for candidate; do
    # $candidate is split on purpose: CXX may be "ccache g++".
    if echo '#include <vector>' | $candidate -x c++ -fsyntax-only - 2>/dev/null; then compiler=$candidate; break; fi
    if command -v "${candidate%% *}" >/dev/null; then found="$found${found:+, }$candidate, which fails to compile"; fi
done
if [ -z "$compiler" ]; then
    say "missing a C++ compiler (found: ${found:-no $*});" \
        "$(how_to g++ gcc-c++ 'xcode-select --install' \
            'micromamba create -n remerge -c conda-forge cxx-compiler, then CXX=<its c++>')"
    missing=yes
fi
if [ $missing = yes ]; then exit 1; fi

# ---- The environment ----------------------------------------------------------------------------------------------
# A .venv without a stamp was interrupted, or is not from here: what is in it cannot be trusted, so it is built anew.
# The same goes for one whose Python no longer starts. Otherwise only the packages are brought up to date.
if [ $same_venv = yes ] && $venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "updating $venv"
    python=$old_python index=$old_index
    rm -f $stamp
else
    if [ -e $venv ]; then say "replacing $venv (unfinished, broken or for another Python, place or torch build)"; fi
    rm -f $stamp
    rm -rf $venv
    say "building $venv with $base (Python $major.$minor); the first time this downloads gigabytes"
    "$base" -m venv $venv
fi

# uv does in seconds what takes pip minutes, and links files from a cache that all clones share instead of copying.
if $venv/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: uv 2>/dev/null; then
    # uv does not read pip's settings: a mirror set there has to be handed over, unless uv was given its own.
    # (`pip config list`, because `pip config get` overlooks the file that PIP_CONFIG_FILE names.)
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}" ]; then
        mirror=$($venv/bin/python -m pip config list | sed -n "s/^global.index-url='\(.*\)'$/\1/p")
        mirror=${PIP_INDEX_URL:-$mirror}
        if [ -n "$mirror" ]; then export UV_DEFAULT_INDEX="$mirror"; fi
    fi
    install() { $venv/bin/uv pip install --python $venv/bin/python "$@"; }
    only_from=--default-index  # not --index-url, which uv lets the variable above overrule
else
    say "could not install uv: using pip, which takes minutes"
    install() { $venv/bin/python -m pip install --disable-pip-version-check "$@"; }
    only_from=--index-url
fi

# torch and torchvision in one call, and with TORCH_INDEX both from there alone: from different builds,
# `import torchvision` fails. Their version ranges stand in pyproject.toml only, so they are read from its lines.
torch=$(sed -n 's/^ *"\(torch[<>=][^"]*\)",.*/\1/p; s/^ *"\(torchvision[<>=][^"]*\)",.*/\1/p' pyproject.toml)
# $torch is split on purpose: two requirements.
install ${TORCH_INDEX:+$only_from "$TORCH_INDEX"} $torch
# The extension is compiled by the compiler found above, whatever this Python was built with.
CC=$compiler CXX=$compiler
export CC CXX
install -e '.[test]'

printf '%s\n' "$files" "$place" "$python" "$index" >$stamp.new
mv $stamp.new $stamp
say "done"
