# Every target makes .venv and installs into it when needed; nothing outside the checkout is touched.
# Needs Python >= 3.11, make and git. Another Python: `make demo PYTHON=python3.13`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LOWEST := .venv-lowest
# Three keep two cores busy, since many tests wait for leases and servers. `make test TESTS=tests/unit JOBS=8`
# narrows or widens.
JOBS   ?= 3
TESTS  ?= tests

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench search search-full comparisons scale faults fuzz objectives cluster lowest clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(STAMP) ## Make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)' || { \
	  echo "hpo needs Python 3.11 or newer, and '$(PYTHON)' is not. Try: make $(or $(MAKECMDGOALS),install) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV): about a minute, and 6 GB where torch brings its CUDA libraries."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Run the demonstration study to its report; run again, it shows the finished study
	env -u HPO_STORAGE $(BIN)/hpo run objectives/studies/digits.yaml

test: $(STAMP) ## Every test; what was skipped, and why, is printed at the end
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

check: $(STAMP) ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Rewrite the files as `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Beside peers in the same run: cost per trial, growing studies, training, lanes, dashboard; and whole searches
	$(BIN)/python -m tests.bench.bench_overhead
	$(BIN)/python -m tests.bench.bench_growth
	$(BIN)/python -m tests.bench.bench_training
	$(BIN)/python -m tests.bench.bench_lanes
	$(BIN)/python -m tests.bench.bench_search
	$(BIN)/python -m tests.bench.bench_dashboard

search: $(STAMP) ## Ways to search beside one another, replayed on recorded trainings: docs/search.md
	$(BIN)/python -m tests.bench.search

search-full: $(STAMP) ## The same with every method, 1, 8 and 32 workers, 60 searches of each; hours
	$(BIN)/python -m tests.bench.search --full

comparisons: $(STAMP) ## The classical comparisons, trained anew: docs/comparisons.md; a few minutes
	$(BIN)/python -m tests.bench.comparisons

scale: $(STAMP) ## How many workers one PostgreSQL bears: real ones, then simulated ones
	$(BIN)/python -m tests.bench.scale

fuzz: $(STAMP) ## Hostile study files, requests, command lines and objectives, in numbers
	$(BIN)/python -m tests.fuzz

faults: $(STAMP) ## The long form of the fault tests, as a table with figures
	$(BIN)/python -m tests.faults

objectives: $(STAMP) ## Objectives as people bring them from Optuna, on both databases; and a notebook's, in a kernel
	$(BIN)/python -m tests.objectives_foreign
	$(BIN)/python -m tests.notebook

cluster: $(STAMP) ## The long form of the launch tests (several machines)
	$(BIN)/python -m tests.cluster

# In a .venv-lowest of its own: several minutes, and another 6 GB. The tools of the tests are of today.
lowest: ## The unit tests on the lowest versions that pyproject.toml allows; by hand
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e .
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python pytest pytest-timeout pytest-xdist hypothesis jsonschema
	$(LOWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal tests/unit

clean: ## Remove .venv and what tools left behind; never studies or their database
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find hpo objectives storage tests -type d -name __pycache__ -prune -exec rm -rf {} +
