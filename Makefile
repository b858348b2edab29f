# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests. Each makes the
# virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint install clean

install: $(VENV)/.installed

# The constraints file pins tested versions; pyproject.toml has the honest lower bounds.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[zh,dev]'
	touch $@

demo: install
	$(BIN)/zoo demo

# Test files side by side, in their order: the longest have few tests, so would come last otherwise. A worker that waits for
# torch's other threads must not keep a core busy with it.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Format, lint, strict types, every test.
test: install lint
	$(PYTEST) --durations 25

# The fast part of it.
check: install lint
	$(PYTEST) -m 'not slow'

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
