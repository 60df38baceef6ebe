# Two commands: `make quickstart` (the whole story, with a report) and `make test` (lint, types, floors, tests).
# Both need only Python >= 3.11 with pip. PYTHON=... picks the interpreter, PIP_FLAGS=... goes to pip.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) --constraint constraints.txt

.PHONY: quickstart test lint

quickstart: .venv/run.stamp
	$(BIN)/sharecap quickstart

# SHARECAP_TEST_INSTALL lets the packaging tests use pip as this file just did. A file's tests share what was
# made for them, so files, not tests, are dealt out to processes; each process computes on one core.
test: lint
	SHARECAP_TEST_INSTALL=1 OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 \
	  --dist loadfile --no-loadscope-reorder

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11 or missing. Name another one: make PYTHON=python3.11" >&2; exit 1; }
	@# Debian's python3 without python3-venv cannot put pip into a venv, but its own pip can.
	@$(PYTHON) -m venv .venv 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip .venv && \
	  $(PYTHON) -m pip --python .venv/bin/python install --quiet pip; }

# A stamp is newer than what it was made from, so a second call does nothing.
.venv/run.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing sharecap and what it runs on into .venv (once)"
	@$(PIP) --editable '.[all]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing sharecap and what its tests need into .venv (once)"
	@$(PIP) --editable '.[dev]'
	@touch $@ .venv/run.stamp
