# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(abspath $(VENV))/bin
READY  := $(VENV)/.ready

# Tests start thousands of processes: modules are compiled once, also where the environment asks for no bytecode.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup demo test long rare learn bench man dist clean

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "avtools needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[models,dev]'
	touch $@

# From synthetic clips to a trained model; or the data chain on your clips: make demo CLIPS=folder
demo: $(READY)
	PATH="$(BIN):$$PATH" bash workflows/demo.sh $(if $(CLIPS),"$(CLIPS)")

# Half as many again as there are CPUs: much of a test is waiting for the processes that it starts.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) * 3 // 2)')

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long and not rare and not learn and not cluster" tests

# Whole runs of whole systems, most of a minute each.
long: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "long and not rare and not learn and not cluster" tests

# Each way of giving a system what it refuses, a process each.
rare: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m rare tests

# What longer training learns; minutes each.
learn: $(READY)
	$(BIN)/python -m pytest -m learn tests

# Ratios against peers, measured side by side; ffmpeg, sox and hyperfine are taken from PATH.
bench: $(READY)
	PATH="$(BIN):$$PATH" $(BIN)/python -m benchmarks

# Completion scripts and the man page come from the same text as --help.
man: $(READY)
	$(BIN)/python -m avtools.manual > completions/avtools.1
	_AVTOOLS_COMPLETE=bash_source $(BIN)/avtools > completions/avtools
	_AVTOOLS_COMPLETE=zsh_source $(BIN)/avtools > completions/_avtools
	_AVTOOLS_COMPLETE=fish_source $(BIN)/avtools > completions/avtools.fish

dist: $(READY)
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist demo *.egg-info
