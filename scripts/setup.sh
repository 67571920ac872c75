#!/bin/sh
# Builds .venv with everything that remerge needs. `make` calls this before every target, so it returns at once if
# nothing has changed.
#
#   PYTHON       interpreter to build .venv from (default: the first of python3, python3.13 ... that is new enough)
#   CXX          C++ compiler (default: c++, g++ or clang++)
#   TORCH_INDEX  URL of a package index holding another build of torch and torchvision (CPU only, another CUDA)
#
# PYTHON and TORCH_INDEX are remembered: later calls do not need them, and another value rebuilds .venv.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# ---- Has anything changed? ----------------------------------------------------------------------------------------
# The stamp is removed before the first change and written after the last, so an interrupted set-up never counts as
# done. cksum, because every POSIX system has it. No Python is started here, because that alone would take longer.
venv=.venv
stamp=$venv/setup-done
files=$(cat pyproject.toml setup.py scripts/setup.sh native/build_ffi.py native/include/* native/src/* | cksum)
place=$(pwd -P)  # a venv contains absolute paths, so it must be rebuilt after a move
index=$(printf %s "${TORCH_INDEX:-}" | cksum)  # hashed, because such a URL may hold a password
python=
if [ -n "${PYTHON:-}" ]; then python=$(command -v "$PYTHON" || true); fi

old_files= old_place= old_python= old_index=
if [ -f "$stamp" ]; then
    { read -r old_files && read -r old_place && read -r old_python && read -r old_index; } <"$stamp" || true
fi
same_venv=no  # whether .venv has the wanted Python and torch build; its packages may be old
if [ -x $venv/bin/python ] && [ "$place" = "$old_place" ] &&
    { [ -z "${PYTHON:-}" ] || [ "$python" = "$old_python" ]; } &&
    { [ -z "${TORCH_INDEX:-}" ] || [ "$index" = "$old_index" ]; }; then
    same_venv=yes
fi
if [ $same_venv = yes ] && [ "$files" = "$old_files" ]; then exit 0; fi

# ---- Requirements of the machine ----------------------------------------------------------------------------------
# how_to APT DNF MAC CONDA: the command that installs a package on this system, and one that needs no administrator.
how_to() {
    if command -v apt-get >/dev/null; then echo "install it with: sudo apt install $1 (without root: $4)"
    elif command -v dnf >/dev/null; then echo "install it with: sudo dnf install $2 (without root: $4)"
    elif [ "$(uname)" = Darwin ]; then echo "install it with: $3 (without Homebrew or Xcode: $4)"
    else echo "install it with your package manager, e.g. apt install $1 / dnf install $2 (without root: $4)"
    fi
}
missing=no

# One call prints the version and the interpreter behind a venv or a shim. The venv is built from that interpreter,
# because the active venv may be the .venv that is about to be replaced.
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
    # Debian and Ubuntu have these two in a separate package.
    say "missing the venv and ensurepip modules of $base (Python $major.$minor);" \
        "$(how_to "python$major.$minor-venv" python3 'brew install python' "$conda_python")"
    missing=yes
fi

# The replay buffer is compiled below. Compiling one header here detects compilers that do not work: the placeholder of
# macOS without the command line tools, or a clang++ without the C++ headers.
if [ -n "${CXX:-}" ]; then set -- "$CXX"; else set -- c++ g++ clang++; fi
compiler= found=
for candidate; do
    # $candidate is not quoted because CXX may be "ccache g++".
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
# A .venv without a stamp was interrupted or made by something else, so it is built again. So is one whose Python does
# not start. Otherwise only the packages are updated.
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

# uv takes seconds where pip takes minutes, and it links files from a cache that all clones share.
if $venv/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: uv 2>/dev/null; then
    # uv does not read pip's settings, so a mirror in them is passed on, unless uv has one in its own variables.
    # (`pip config list`, because `pip config get` ignores the file in PIP_CONFIG_FILE.)
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}" ]; then
        mirror=$($venv/bin/python -m pip config list | sed -n "s/^global.index-url='\(.*\)'$/\1/p")
        mirror=${PIP_INDEX_URL:-$mirror}
        if [ -n "$mirror" ]; then export UV_DEFAULT_INDEX="$mirror"; fi
    fi
    install() { $venv/bin/uv pip install --python $venv/bin/python "$@"; }
    only_from=--default-index  # not --index-url, which the variable above would override
else
    say "could not install uv: using pip, which takes minutes"
    install() { $venv/bin/python -m pip install --disable-pip-version-check "$@"; }
    only_from=--index-url
fi

# torch and torchvision are installed in one call, and with TORCH_INDEX both from that index only, because `import
# torchvision` fails if their builds differ. Their version ranges are only in pyproject.toml, so they are read from it.
torch=$(sed -n 's/^ *"\(torch[<>=][^"]*\)",.*/\1/p; s/^ *"\(torchvision[<>=][^"]*\)",.*/\1/p' pyproject.toml)
# $torch is not quoted because it holds two requirements.
install ${TORCH_INDEX:+$only_from "$TORCH_INDEX"} $torch
# The extension is compiled by the compiler found above, not by the one that built this Python.
CC=$compiler CXX=$compiler
export CC CXX
install -e '.[test]'

printf '%s\n' "$files" "$place" "$python" "$index" >$stamp.new
mv $stamp.new $stamp
say "done"
