# make demo      set everything up in .venv and run the main job, offline
# make test      install what the tests need (Debian packages too, as root) and run them
# make check     ruff, mypy --strict, import-linter
# make interop   Apptainer as judge of our SIFs, hpcc as reader of its (a Debian root with Apptainer comes first)
# make bench     ratios against Apptainer and floors, measured in the same run; draws them
# make growth    how time and memory of a pull grow with an image's bytes, files and layers; draws it (10 minutes, 25 GB)
# make zipapp    hpcc in one file, dist/hpcc-VERSION-cp3XX-MACHINE.pyz, that needs Python and nothing else
# make rpm       the same as an RPM
# make docs      the site, into build/site, and man pages, into build/man; a broken link or reference fails
# make pictures  how the program looks at a terminal, as pictures of real runs, into docs/explanation
# make soak      500 processes and 200 kills where `make test` has 64 and 30; 100,000 damaged inputs, 50,000 merges
# make clean     remove what the others made here
#
# Any order, in a clean clone, with nothing done before. PYTHON=/path/to/python3 names another interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Compiled modules make up most of a short command's start, so an environment that forbids them must not count here.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -I -m pip
INSTALL := $(PIP) install -qq -c constraints.txt --build-constraint constraints.txt
INPUTS := pyproject.toml constraints.txt $(wildcard bin/*)
PYTEST := $(BIN)/python -m pytest
ARGS ?=
SOAKED := tests/e2e/test_storm.py tests/e2e/test_two_nodes.py tests/integration/test_fuzz.py tests/integration/test_umoci.py \
	tests/unit/test_merge.py

.PHONY: help demo test check interop bench growth docs pictures zipapp rpm soak clean constraints system peers

help:
	@sed -n '/^# make /s/^# //p' Makefile

demo: $(VENV)/.for-demo
	$(BIN)/hpcc demo $(ARGS)

test: $(VENV)/.for-tests | system
	$(PYTEST) tests/unit tests/integration tests/e2e $(ARGS)

soak: $(VENV)/.for-tests | system
	HPCC_SOAK=1 $(PYTEST) -s $(SOAKED) $(ARGS)

check: $(VENV)/.for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

interop: $(VENV)/.for-tests peers | system
	$(PYTEST) tests/interop $(ARGS)

bench: $(VENV)/.for-tests peers | system
	tests/support/peers/setup.sh images
	mkdir -p build
	$(BIN)/python tests/bench/run.py --json build/bench.json $(ARGS)
	$(BIN)/python tests/bench/plots.py build/bench.json docs/explanation/bench.svg

growth: $(VENV)/.for-tests | system
	$(BIN)/python tests/bench/growth.py --svg docs/explanation/growth.svg $(ARGS)

zipapp: $(VENV)/.for-demo
	$(BIN)/python packaging/zipapp/build.py

rpm: $(VENV)/.for-demo
	packaging/rpm/build.sh

docs: $(VENV)/.for-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python docs/site/man.py build/man/man1

pictures: $(VENV)/.for-docs | system
	$(BIN)/python docs/site/pictures.py docs/explanation

system:
	@tests/support/install.sh

peers: | system
	@tests/support/peers/setup.sh apptainer

# -- the virtual environment: a stamp is older than its inputs, or missing, when there is something to install --

# no virtual environment: one whose interpreter is gone, that was copied from elsewhere, or with another pip
ifneq ($(shell grep -qF ' $(CURDIR)/$(VENV)' $(VENV)/pyvenv.cfg 2>/dev/null && $(PIP) --version 2>/dev/null | cut -d ' ' -f 2),$(shell sed -n 's/^pip==//p' constraints.txt))
$(shell rm -f $(VENV)/.for-* $(BIN)/python)
endif

$(BIN)/python:
	@echo "making $(VENV); the first time this takes a minute"
	@tests/support/venv.sh $(VENV)

$(VENV)/.for-demo: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e '.[snakemake]'
	@touch $@

$(VENV)/.for-tests: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e '.[snakemake]' --group dev
	@touch $@ $(VENV)/.for-demo

$(VENV)/.for-docs: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e . --group docs
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find hpcc tests integrations -name __pycache__ -type d -prune -exec rm -rf {} +

# newer versions: see the head of the file that this writes
constraints:
	t=$$(mktemp -d); trap 'rm -rf '$$t EXIT; \
	"$$(tests/support/venv.sh --python)" -m venv $$t/v; \
	$$t/v/bin/python -I -m pip install --quiet --upgrade pip; \
	$$t/v/bin/python -I -m pip install --quiet --group dev --group docs '.[snakemake]' hatchling; \
	{ sed '/^[^#]/,$$d' constraints.txt; $$t/v/bin/python -I -m pip freeze --all | grep -Eiv '^(hpcc|setuptools|wheel)( |=)'; } >$$t/new; \
	cp $$t/new constraints.txt
