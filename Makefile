# Needs Python >= 3.11, make and a package index; everything else comes with `make setup`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup study test lint clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

study: setup
	$(BIN)/python -m study.run --space stilt

# Three processes, each of one thread, for two cores: a third of their time they wait, as for Ray to
# start. A file's tests share what they set up, so they stay together; tests/conftest.py orders them.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv results
