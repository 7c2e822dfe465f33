# Everything a person or a build machine runs. `make up` needs Python 3.11, make and python3-venv, and nothing else.

.DEFAULT_GOAL := help
SHELL := /bin/bash

# Debian's own Python before any other: every user may execute it, and it has the venv that python3-venv brings.
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
FUZZ_SECONDS ?= 60
SEEDS ?= 10000

.PHONY: help up test e2e e2e-long box-up box-shell box-down lint bench simulate simulation faults faults-rows fuzz packages clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/.runtime ## Run an array of three servers on this machine, until Ctrl-C
	@exec $(BIN)/mailarray up -f examples/local.yaml --data $(DATA)

test: packages $(VENV)/.dev $(VENV)/.s3 ## Run all tests (installs the Debian packages they need)
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

e2e: $(VENV)/.dev ## Test on Kubernetes: on KUBECONFIG's cluster, or on one made on this machine (root, Debian 12)
	@test -n "$(KUBECONFIG)" || $(BIN)/python -m tests.e2e.box prepare
	$(BIN)/python -m pytest tests/e2e -m "not long" $(PYTEST_ARGS)

e2e-long: $(VENV)/.dev # The campaigns that take hours
	@test -n "$(KUBECONFIG)" || $(BIN)/python -m tests.e2e.box prepare
	$(BIN)/python -m pytest tests/e2e -m long $(PYTEST_ARGS)

box-up: $(VENV)/.dev ## Start a Kubernetes of three nodes on this machine (root, Debian 12); the first time takes 20 minutes
	@$(BIN)/python -m tests.e2e.box up

box-shell: $(VENV)/.dev ## Open a shell inside of it: kubectl, helm, names of Services
	@$(BIN)/python -m tests.e2e.box shell

box-down: $(VENV)/.dev ## Take it down
	@$(BIN)/python -m tests.e2e.box down

lint: $(VENV)/.dev ## Check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict dataplane operator
	$(BIN)/mypy tests
	$(BIN)/lint-imports

bench: packages $(VENV)/.dev ## Compare with other mail servers, side by side on this machine
	$(BIN)/python -m bench $(BENCH_ARGS)

simulate: $(VENV)/.simulate ## Simulate senders, DNS and load around the MX planner: build/simulate/report.html
	PYTHONPATH=operator:dataplane $(BIN)/python -m simulate $(SIMULATE_ARGS)

faults: packages $(VENV)/.dev ## Hurt an array in every way and count its mail: SEED=, MESSAGES=, FAULTS= (root, for most kinds)
	@$(BIN)/python -m tests.faults

faults-rows: packages $(VENV)/.dev # What failures cost, in figures: docs/faults.md
	$(BIN)/python -m pytest tests/faults/test_rows.py -m long -s $(PYTEST_ARGS)

simulation: $(VENV)/.dev ## Play SEEDS (10000) arrays in virtual time, with every kind of trouble: docs/simulation.md
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(SIMULATION_ARGS)

fuzz: $(VENV)/.fuzz ## Fuzz the parsers for FUZZ_SECONDS (60) seconds each
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

packages: # Debian packages that tests and benchmarks talk to
	@tests/install-debian-packages

clean: ## Remove the virtual environment and caches; mail under data/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment with two stages: what runs, and beside it what tests. A stamp is as new as its lock file.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 with its venv module is needed: apt-get install python3 python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: requirements/dataplane.lock pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dataplane.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/.s3: requirements/s3.lock | $(VENV)/.made
	$(PYTHON) -m venv $(VENV)/s3
	$(VENV)/s3/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/s3.lock
	@touch $@

$(VENV)/.fuzz: requirements/fuzz.lock $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.lock
	@touch $@

$(VENV)/.simulate: requirements/simulate.lock $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/simulate.lock
	@touch $@
