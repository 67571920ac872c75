# Prove a GPU: `make gpu`, with GPU_ARGS for benchmarks/gpu.py. With WHEELS=FOLDER nothing is fetched: PYTHON (python3),
# which brings torch, is given the wheels of the folder, and .venv is not needed. `make gpu-wheels` fills such a folder on
# a machine with a network: GPU_PYTHON_VERSION (3.12) is the Python that they are for.
set -eu
cd "$(dirname "$0")/.."
folder=${WHEELS:-}
if [ "${1:-}" = wheels ]; then
    version=${GPU_PYTHON_VERSION:-3.12}
    platforms=
    for number in 17 24 27 28 31 34; do platforms="$platforms --platform manylinux_2_${number}_x86_64"; done
    mkdir -p "${folder:=build/wheels}"
    # What torch's own machine images have is left out: torch, numpy, scipy and the like.
    .venv/bin/python -m pip download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
        $platforms --platform manylinux2014_x86_64 -d "$folder" \
        hydra-core omegaconf continuum POT cffi pycparser simplejpeg rich datasets multiprocess dill libucx-cu12
    .venv/bin/python -m pip wheel -q --no-deps -w "$folder" antlr4-python3-runtime==4.9.3
    echo "written: $folder"
    exit
fi
if [ -z "$folder" ]; then
    make -s setup
    exec .venv/bin/python benchmarks/gpu.py "$@"
fi
python=${PYTHON:-python3}
site=build/gpu-site
mkdir -p "$site"
"$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$folder"/*.whl
PYTHONPATH=$PWD/$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
ls cl/buffers/_replay*.so >/dev/null 2>&1 || "$python" setup.py -q build_ext --inplace
exec "$python" benchmarks/gpu.py "$@"
