# Two commands on a machine with Python 3.11+, make and git:
#   make demo   tunes a real pre-training run under a budget of 120 device-seconds
#   make test   passes the tests
# Each makes its own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUDGET ?= 2min
SEED ?= 0

.PHONY: demo test test-all lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/frugalbo tune problems/tiny_llama --budget $(BUDGET) --seed $(SEED)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-all: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -m "not gpu"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("frugalbo needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "making the environment in $(VENV); this takes some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,benchmarks,ax,dataframe,nuts,ray,postgresql]'
	touch $@

clean:
	rm -rf $(VENV)
