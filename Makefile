# Every check has one way to be run; continuous integration uses the same targets.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONFIG ?= configs/quickstart.yaml
WORKERS ?= 2

.PHONY: setup quickstart docs test test-cluster test-rest test-slow test-gpu lint audit calibration notebooks bench clean help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Make the virtual environment and install flatscale with its development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "flatscale needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q flatscale
	@touch $@

quickstart: $(STAMP) ## Run configs/quickstart.yaml on this machine and print where the report is
	$(BIN)/flatscale run $(CONFIG)

test-cluster test-rest test-slow test-gpu: export OMP_NUM_THREADS ?= 1

# What starts Ray and servers: one by one, as it waits for processes of its own.
STARTS_RAY := tests/cluster tests/tracking tests/test_extension.py

test: $(STAMP) ## The whole quick test suite, its two parts at once
	+$(MAKE) --no-print-directory --jobs 2 test-cluster test-rest

test-cluster: $(STAMP) ## The part of it that starts Ray and servers, one test after the other
	$(BIN)/pytest $(STARTS_RAY)

# A file stays in one process, where its tests share what took time to make.
test-rest: $(STAMP) ## The rest of it, in WORKERS processes
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(addprefix --ignore=,$(STARTS_RAY))

test-slow: $(STAMP) ## The tests that take long: calibrations by simulation, kill tests, servers
	$(BIN)/pytest -m slow --timeout 3000

test-gpu: $(STAMP) ## The tests that need a GPU
	$(BIN)/pytest -m gpu

lint: $(STAMP) ## Style, types, and known vulnerabilities where a service that lists them answers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/python .ci/audit --where-possible

audit: $(STAMP) ## Known vulnerabilities in the pinned dependencies; fails where no service answers
	$(BIN)/python .ci/audit

docs: $(STAMP) ## The site of docs/ in build/docs, strictly: no broken link
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

calibration: $(STAMP) ## Error rates of the statistics by simulation, as the dated table of docs/
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.calibration --write docs/calibration-$$(date +%F).md

notebooks: $(STAMP) ## Run every notebook from top to bottom and collect their claims
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/execute.py

bench: $(STAMP) ## Every benchmark, as one table a room
	$(BIN)/pytest tests/benchmarks -m 'not gpu' --benchmark-only --benchmark-disable-gc -s --timeout 3000

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
