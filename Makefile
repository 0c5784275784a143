# Everything a newcomer types. Each target sets itself up: .venv, pip, the pins of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-console unit lint docs bench clean

demo: $(VENV)/.ready  ## the whole pipeline on the embedded data set
	$(BIN)/genrecall quickstart

# One process a core, one thread each: two threads that wait for each other on busy cores are many times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: $(VENV)/.ready  ## every test but the browser's; GPU tests are skipped, and counted, where there is no GPU
	$(PYTEST) -m "not browser"

test-console: $(VENV)/.ready  ## the console in Chromium (Debian: apt install chromium)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/serve

unit: $(VENV)/.ready  ## the quick tier alone
	$(PYTEST) -m "not slow and not gpu"

lint: $(VENV)/.ready  ## style, types, import contract
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready  ## regenerate docs/reference/cli.md from the command itself
	$(BIN)/python -m typer genrecall.cli.main utils docs --name genrecall --output docs/reference/cli.md

bench: $(VENV)/.ready  ## engine throughput on this machine
	$(BIN)/genrecall bench engine

# Without a GPU the CPU build of torch is asked for first (PyPI's needs gigabytes); where PyTorch's own index cannot be
# reached, the next line takes what pip finds.
TORCH := $(shell grep -E '^torch==' constraints.txt)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	command -v nvidia-smi > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu $(TORCH) 2> /dev/null || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
