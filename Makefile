# Everything a newcomer types. Each target sets itself up: .venv, pip, the pins of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test unit lint docs bench clean

demo: $(VENV)/.ready  ## the whole pipeline on the embedded data set
	$(BIN)/genrecall quickstart

test: $(VENV)/.ready  ## unit tier first, then the slow tier; GPU tests are skipped and counted where there is no GPU
	$(BIN)/python -m pytest

unit: $(VENV)/.ready  ## the quick tier alone
	$(BIN)/python -m pytest -m "not slow and not gpu"

lint: $(VENV)/.ready  ## style, types, import contract
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready  ## regenerate docs/reference/cli.md from the command itself
	$(BIN)/python -m typer genrecall.cli.main utils docs --name genrecall --output docs/reference/cli.md

bench: $(VENV)/.ready  ## engine throughput on this machine
	$(BIN)/genrecall bench engine

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
