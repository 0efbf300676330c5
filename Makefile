# Needs python3 (3.11 or newer) with pip, and make.  Every target sets itself up: a virtual environment in .venv,
# with the versions of constraints.txt.  `make demo PYTHON=python3.12` picks the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# For instance PYTEST_ARGS="-k network".
PYTEST_ARGS ?=
# Tests run side by side, one process per processor: make test WORKERS=0 runs them in this one.
WORKERS ?= auto
PARALLEL := -n $(WORKERS) --dist worksteal
# On a CI machine a missing pdflatex is a failure; elsewhere the tests that need it are skipped.
ifeq ($(CI),true)
export FIELDTHEORY_REQUIRE_LATEX ?= 1
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-latex test-all check bench docs-figures clean distclean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/.installed  ## the virtual environment, without running anything

demo: setup  ## the linear network on real digits: report/report.html and report/derivation.tex
	$(BIN)/fieldtheory validate linear --data digits --out report

test: check  ## checks, then the tests that need only Python
	$(PYTEST) -m "not slow and not latex" $(PARALLEL) $(PYTEST_ARGS)

test-latex: setup  ## the tests that run pdflatex
	$(PYTEST) -m latex -rs $(PYTEST_ARGS)

test-all: check  ## every test, the slow ones and those that run pdflatex too
	$(PYTEST) -rs $(PARALLEL) $(PYTEST_ARGS)

check: setup  ## style, types, import walls, declarative theory files
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache   # a cache is not told of modules that appear
	$(BIN)/python tools/check_derivations.py

bench: setup $(VENV)/.installed-bench  ## timings, in tests/benchmark
	OPENBLAS_NUM_THREADS=1 $(PYTEST) tests/benchmark -o python_files="bench_*.py test_*.py" $(PYTEST_ARGS)

docs-figures: setup  ## the pictures of README and docs, in docs/_static
	$(BIN)/python docs/make_figures.py

clean:  ## remove what the targets write, but not the environment
	rm -rf report build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## and the environment
	rm -rf $(VENV)

# The stamp is written last: an interrupted installation starts again.  Some distributions split ensurepip off; there
# the environment is made without pip and the interpreter's own pip installs one into it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11, or missing: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --without-pip --clear $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev,bench]"
	@touch $@
