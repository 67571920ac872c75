# Every target sets up .venv first (scripts/setup.sh, which returns at once when nothing changed).
# Variables: ARGS (run), PYTEST_ARGS (test), BENCH_ARGS (bench), RACE_ARGS (race), GPU_ARGS (gpu), and for the set-up
# PYTHON, CXX, TORCH_INDEX; given as `make setup PYTHON=python3.12` or from the environment, both reach the script.

ARGS ?= strategy=derpp scenario=class10 -m seed=0,1,2
PYTEST_ARGS ?=
BENCH_ARGS ?=
RACE_ARGS ?=
GPU_ARGS ?=
HOROVOD ?= yes
VENV_PYTHON = .venv/bin/python

.PHONY: help setup horovod run test lint bench race gpu gpu-wheels wheel docs docs-serve docs-output clean

help:
	@echo 'make setup   build or update .venv (PYTHON=, CXX=, TORCH_INDEX= choose what it uses)'
	@echo 'make horovod build Horovod for the installed torch; HOROVOD_GPU_OPERATIONS=NCCL, HOROVOD_WITH_MPI=1: its options'
	@echo 'make run     train: ARGS="$(ARGS)"'
	@echo 'make test    run the tests: PYTEST_ARGS="-k buffer -x"'
	@echo 'make lint    check the code with ruff, clang-format and, if it is there, clang'
	@echo 'make bench   time the training loop: BENCH_ARGS="..."'
	@echo 'make race    race against Avalanche on one core: RACE_ARGS="--data PATH", the folder of MNIST/raw'
	@echo 'make gpu     test and time everything on a GPU, in under eight minutes: GPU_ARGS="--out=FOLDER"'
	@echo 'make wheel   build wheel and source distribution in dist/, and try them in a bare environment'
	@echo 'make docs    build the documentation site in site/; make docs-serve: show it while you write'
	@echo 'make docs-output  run the commands of the pages and write their output there: PAGES="docs/getting_started.md"'
	@echo 'make clean   remove .venv, .race and caches; results and data stay'

setup:
	@sh scripts/setup.sh

# Minutes the first time for each version of torch, a wheel from the user's cache afterwards. One process needs none of
# it: `make run HOROVOD=no` leaves it out.
horovod: setup
	@test "$(HOROVOD)" = no || $(VENV_PYTHON) scripts/build_horovod.py

run: horovod
	$(VENV_PYTHON) run.py $(ARGS)

# The programs of the C++ library's tests are built first, by all processors: pytest finds them there.
test: horovod
	$(MAKE) -s -C native -j2 programs
	$(VENV_PYTHON) -m pytest $(PYTEST_ARGS)

# Only those who lint need the tools, so they are fetched on first use.
lint: setup
	@test -x .venv/bin/ruff -a -x .venv/bin/clang-format || $(VENV_PYTHON) -m pip install -q -e '.[lint]'
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	find native -name build -prune -o \( -name '*.[ch]' -o -name '*.cpp' \) -print | xargs .venv/bin/clang-format --dry-run --Werror
	$(MAKE) -s -C native lint

bench: setup
	$(VENV_PYTHON) benchmarks/training_loop.py $(BENCH_ARGS)

# The opponent gets an environment of its own, .race, which is built once.
race: setup
	@sh scripts/race.sh $(RACE_ARGS)

# WHEELS=FOLDER: without a network and without .venv, by the python3 (or PYTHON) that has torch.
gpu:
	@sh scripts/gpu.sh $(GPU_ARGS)

gpu-wheels: setup
	@sh scripts/gpu.sh wheels

wheel: setup
	sh scripts/check_wheel.sh dist

# Only those who build the site need MkDocs, so it is fetched on first use. No network is needed after that.
docs: setup
	@$(VENV_PYTHON) -c 'import material' 2>/dev/null || $(VENV_PYTHON) -m pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs build --strict --quiet

docs-serve: setup
	@$(VENV_PYTHON) -c 'import material' 2>/dev/null || $(VENV_PYTHON) -m pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs serve

docs-output: setup
	$(VENV_PYTHON) -m scripts.documentation.consoles --write $(PAGES)

# multirun/ and data/ are not even searched: they may be large, and nothing there is ours to delete.
clean:
	rm -rf .venv .race .pytest_cache .ruff_cache build dist site *.egg-info
	find . \( -path ./multirun -o -path ./data -o -path ./.git \) -prune -o \
		-type d -name __pycache__ -prune -exec rm -rf {} +
