# opspipe: every target works on a machine with git, make and Python 3.11 to 3.13, and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that runs and is of a supported version (a pyenv shim may exist and not run).
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "opspipe needs Python 3.11, 3.12 or 3.13: install one, or name it with 'make PYTHON=/path/to/python ...'" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python -m venv failed: on Debian and Ubuntu, install python3-venv" >&2; exit 1; }

# A stamp says which lock is installed, so that a second run starts at once.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@# A first try that was killed may have left half a venv.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the pinned dependencies (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements/runtime.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing what tests and lint need (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: setup
setup: $(VENV)/.dev ## make .venv with all pinned dependencies

.PHONY: demo
demo: $(VENV)/.runtime ## the whole pipeline on a sample batch, with a report at the end
	@exec $(BIN)/opspipe demo $(ARGS)

.PHONY: up
up: $(VENV)/.runtime ## everything on this machine, until Ctrl-C
	@exec $(BIN)/opspipe up

.PHONY: test
test: $(VENV)/.dev ## the whole test suite against real servers (ARGS="-k name" for a part)
	@exec $(BIN)/python -m pytest -n 2 $(ARGS)

.PHONY: test-faults
test-faults: $(VENV)/.dev ## processes killed, servers stopped, messages lost and doubled (ARGS="--rounds 20 --seed 7", ARGS="--broker rabbitmq")
	@exec $(BIN)/python -m pytest -m faults tests/faults $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev ## jobs of all kinds with faults for 20 minutes: invariants, and a plot of memory (ARGS="--minutes 60 --seed 7")
	@exec $(BIN)/python -m pytest -q -s -m soak tests/faults/soak $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev ## load against the limit of COPY (ARGS="scaling --huge" for how it scales)
	@exec $(BIN)/python benchmarks/bench.py $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy --strict and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: format
format: $(VENV)/.dev ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(VENV)/.dev ## pin the dependencies anew, with hashes, for every supported Python and system
	cd requirements && for name in runtime dev; do \
		../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header $$name.in --output-file $$name.txt; done

.PHONY: clean
clean: ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
