# Everything a newcomer types. Each target sets itself up: .venv, pip, the pins of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test unit test-ranks test-gateways test-suites test-tf test-ray test-console fuzz lint docs chaos bench clean

demo: $(VENV)/.ready  ## the whole pipeline on the embedded data set
	$(BIN)/genrecall quickstart

# One process a core, one thread each: two threads that wait for each other on busy cores are many times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup

test: $(VENV)/.ready  ## every test but those of the tiers below; GPU tests are skipped, and counted, where there is no GPU
	$(PYTEST)

test-console: $(VENV)/.ready  ## the console in Chromium (Debian: apt install chromium)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/serve

unit: $(VENV)/.ready  ## the quick tier alone
	$(PYTEST) -m "not slow and not gpu"

test-ranks: $(VENV)/.ready  ## models spread over four processes, and behind the gateway
	$(PYTEST) -m ranks

test-gateways: $(VENV)/.ready  ## services of several gateway processes: swaps, kills, a drained stop
	$(PYTEST) -m gateways

test-suites: $(VENV)/.ready  ## the engine's benchmark, each suite of it on a tiny model
	$(PYTEST) -m suites

test-tf: $(VENV)/.ready  ## the TensorFlow graph; takes the wheel (1 GB) and compiles the operators
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,tf]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m tf tests/graph

test-ray: $(VENV)/.ready  ## Ray Data and Ray Serve, started for real on this machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray tests/serve

fuzz: $(VENV)/.ready  ## 20,000 generated requests and more, over every dialect
	OMP_NUM_THREADS=1 nice $(BIN)/python -m pytest -m fuzz tests/serve

lint: $(VENV)/.ready  ## style, types, import contract
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready  ## regenerate docs/reference/cli.md from the command itself
	$(BIN)/python -m typer genrecall.cli.main utils docs --name genrecall --output docs/reference/cli.md

chaos: $(VENV)/.ready  ## break the service over the demo's bundle, promise by promise
	$(BIN)/genrecall chaos runs/quickstart/bundle --run short

bench: $(VENV)/.ready  ## engine throughput on this machine
	$(BIN)/genrecall bench engine

# Without a GPU the CPU build of torch is asked for first (PyPI's needs gigabytes); where PyTorch's own index cannot be
# reached, the next line takes what pip finds. A recent pip resolves in a third of the time of the one that venv brings, and
# all cores compile afterwards what pip would on one (a few files are of other Pythons): 100 s instead of 150 on two cores.
TORCH := $(shell grep -E '^torch==' constraints.txt)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip
	command -v nvidia-smi > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
		--retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu $(TORCH) 2> /dev/null || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
