# One command for each thing; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
UV := $(TOOLS)/bin/uv
# The registries alone: no interpreter is ever downloaded.
export UV_PYTHON_DOWNLOADS := never
# A package release is taken up some days after it came out, not before.
COOLDOWN ?= 2026-11-16
PINS := requirements/tools.txt requirements/dev.txt requirements/operator.txt requirements/puller.txt requirements/mlserver.txt requirements/triton.txt
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	--exclude-newer $(COOLDOWN) --no-emit-package trainedmodel-contract
SOURCES := contract/src operator/src puller/src devkit/src tests benchmarks

.PHONY: help setup lock generate verify lint format type layers check test unit integration demo bench-propagation bench-puller clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-20s %s\n", $$1, $$2}'

$(UV): requirements/tools.txt
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --require-hashes -r requirements/tools.txt
	@touch $(UV)

$(VENV)/.stamp: requirements/dev.txt $(wildcard */pyproject.toml) | $(UV)
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e contract -e operator -e puller -e devkit
	@touch $@

setup: $(VENV)/.stamp ## Make .venv with trainedmodel-operator and trainedmodel-puller

lock: | $(UV) ## Pin every dependency again (with hashes)
	$(COMPILE) operator/pyproject.toml -o requirements/operator.txt
	$(COMPILE) puller/pyproject.toml -o requirements/puller.txt
	$(COMPILE) operator/pyproject.toml puller/pyproject.toml devkit/pyproject.toml contract/pyproject.toml requirements/dev.in -o requirements/dev.txt
	$(COMPILE) requirements/tools.in -o requirements/tools.txt
	$(COMPILE) requirements/mlserver.in -o requirements/mlserver.txt
	$(COMPILE) --no-deps requirements/triton.in -o requirements/triton.txt
