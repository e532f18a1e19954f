# `make` shows what there is. Works with GNU make 3.81 (macOS) and newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := pyproject.toml constraints.txt
PIP := $(BIN)/pip --disable-pip-version-check
# one more than there are cores, since tests wait for programs that they start; four at most
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
INSTALL := $(PIP) install -qq --constraint constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint types clean constraints

help:
	@echo 'make quickstart   install into $(VENV), adapt a small model to the Python library, print the gain'
	@echo 'make test         install, then run every test'
	@echo 'make lint         ruff: rules and formatting'
	@echo 'make types        mypy'
	@echo 'make clean        remove $(VENV), caches and builds; runs/ stays'
	@echo 'make constraints  write constraints.txt anew from what $(VENV) holds'
	@echo
	@echo 'Another Python (3.10 or newer): make test PYTHON=python3.12'
	@echo 'Your own data: $(BIN)/bgetune adapt --config YOUR.yaml, see README.md'

quickstart: $(VENV)/.installed
	@$(BIN)/bgetune adapt --config configs/quickstart.yaml

test: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: pip then keeps a CPU build that it finds, and the rest is resolved around it.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "error: bgetune needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; say make PYTHON=python3.12")'
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/pip
	@echo 'installing torch'
	@$(INSTALL) torch
	@touch $@

$(VENV)/.installed: $(PINS) $(VENV)/.torch
	@echo 'installing bgetune and what it needs (some minutes the first time)'
	@$(INSTALL) --editable '.[cpu,quickstart]'
	@touch $@

# dev holds quickstart, so one installation is enough for both
$(VENV)/.installed-dev: $(PINS) $(VENV)/.torch
	@echo 'installing bgetune, what it needs and what its tests need (some minutes the first time)'
	@$(INSTALL) --editable '.[cpu,dev]'
	@touch $(VENV)/.installed $@

# The pins were run on Python 3.11, where several of these releases begin; 3.10 takes the newest that fit it.
define FREEZE
import re, sys
skip = {"pip", "setuptools", "wheel", "bgetune"}
print("# Made by `make constraints`: the versions that the suite was run with, from `pip freeze`.")
for line in sys.stdin:
    match = re.match(r"([\w.-]+)==([^+\s]+)", line)
    if not match or match[1].lower() in skip:
        continue
    marker = "" if match[1] == "torch" else ' ; python_version >= "3.11"'
    print(match[1] + "==" + match[2] + marker)
endef
export FREEZE

constraints: $(VENV)/.installed-dev
	@$(PIP) freeze | $(BIN)/python -c "$$FREEZE" > constraints.new
	@mv constraints.new constraints.txt
	@touch $(VENV)/.torch $(VENV)/.installed $(VENV)/.installed-dev
	@echo 'wrote constraints.txt'
