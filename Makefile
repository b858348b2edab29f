# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests. Each makes the
# virtual environment it needs. A target's line after `##` is what `make help` prints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check lint docs install mixin clean
.DEFAULT_GOAL := help

help:  ## list the targets (what `make` alone does)
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install  ## pretrain six small models, fine-tune them, write one page that compares them
	$(BIN)/zoo demo

# Test files side by side, in their order: the longest have few tests, so would come last otherwise. A worker that waits for
# torch's other threads must not keep a core busy with it.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: install lint docs  ## format, lint, strict types, documentation, every test
	$(PYTEST) --durations 25

check: install lint  ## format, lint, strict types, the fast tests
	$(PYTEST) -m 'not slow'

lint: install  ## format, lint, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Warnings are errors; a reference to a page, a heading or one of our own names that does not exist is one.
docs: install  ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -b html --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html

install: $(VENV)/.installed  ## make the virtual environment .venv with everything

# Transformers' own tests of a model are in its source distribution only. Nothing is built; pip's own settings say where from.
mixin: install  ## fetch transformers' own tests of a model, which tests/zoo/hf/test_mixin.py runs on ours
	@version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("transformers"))') && \
	folder=$(VENV)/transformers-$$version && { test -d $$folder/tests || { \
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation --no-binary transformers \
		--dest $(VENV)/transformers-source transformers==$$version && \
	mkdir -p $$folder && tar -xzf $(VENV)/transformers-source/transformers-$$version.tar.gz -C $$folder \
		--strip-components 1 transformers-$$version/tests; }; }

# The constraints file pins tested versions; pyproject.toml has the honest lower bounds.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is Python %d.%d.%d: name another, as in `make PYTHON=python3.12 demo`" % sys.version_info[:3]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[zh,dev]'
	touch $@

clean:  ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/api *.egg-info .pytest_cache .ruff_cache .mypy_cache
