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
# Tests start hundreds of processes: without bytecode each compiles all that it imports, for seconds.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
# A package release is taken up some days after it came out, not before.
COOLDOWN ?= 2026-11-16
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	--exclude-newer $(COOLDOWN) --no-emit-package trainedmodel-contract
SOURCES := contract operator puller devkit tests benchmarks e2e images
TYPED := contract/src operator/src puller/src devkit/src tests benchmarks e2e
# Where the end-to-end suite runs: node (a real kubelet on this machine, root), kind, kubeconfig.
PROVIDER ?= node

.PHONY: help setup prepare prepare-tests lock generate verify lint format type layers check test unit slow integration hooks e2e demo bench-propagation bench-puller bench-operator bench-hanging clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-20s %s\n", $$1, $$2}'

$(UV): requirements/tools.txt
	@.ci/packages setup
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
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/mlserver.in -o requirements/mlserver.txt
	for name in triton mms llama torchserve tfsprotos; do $(COMPILE) --no-deps requirements/$$name.in -o requirements/$$name.txt || exit 1; done
	$(COMPILE) requirements/kserve.in -o requirements/kserve.txt
	$(COMPILE) --override requirements/vllm.overrides requirements/vllm.in -o requirements/vllm.txt

prepare: setup ## Build the control plane and install the model servers (once; minutes)
	@.ci/packages demo
	@$(BIN)/python -m trainedmodel_devkit prepare

prepare-tests: setup ## The same, and what only tests use: more model servers, helm, Debian packages
	@.ci/packages test
	@$(BIN)/python -m trainedmodel_devkit prepare --tests

generate: setup ## Write crds/, the chart's copies, and the pages of docs/ that say so
	@$(BIN)/python -m trainedmodel_contract.generate .
	@$(BIN)/python -m trainedmodel_devkit.pages .

verify: setup ## Fail if what is generated is not what is committed
	@$(BIN)/python -m trainedmodel_contract.generate --check .
	@$(BIN)/python -m trainedmodel_devkit.pages --check . && echo "generated files are current"

hooks: setup ## Install the git hooks (.pre-commit-config.yaml)
	@$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

lint: setup ## Format check and lint
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)

format: setup ## Format and fix what can be fixed
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

type: setup ## Types, strict, tests included
	@$(BIN)/mypy $(TYPED)

layers: setup ## Prove who imports whom
	@$(BIN)/lint-imports

check: lint type layers verify ## All checks that run nothing

unit: setup ## The fast tests: no cluster, no server, no network (plain pytest)
	@$(BIN)/pytest

slow: setup ## What the fast tests leave out and needs no cluster either: kills, errors, fuzz
	@TRAINEDMODEL_TEST_EXAMPLES=all $(BIN)/pytest -n 2 --dist loadfile -m "not integration"

integration: prepare-tests ## The tests on real parts
	@$(BIN)/pytest -n 2 --dist loadfile -m integration

# Two workers share the machine, and some tests have limits of time: who fails beside others is asked once more, alone.
test: prepare-tests ## All tests; what fails beside others is run once more, alone
	@export TRAINEDMODEL_TEST_EXAMPLES=all; $(BIN)/pytest -n 2 --dist loadfile -m "" --durations=30 --durations-min=5; status=$$?; if [ $$status -ne 1 ]; then exit $$status; fi; \
	echo "== what failed, once more, alone"; $(BIN)/pytest -m "" --last-failed --last-failed-no-failures=none --maxfail=1

e2e: setup ## The whole way on a real node (root; PROVIDER=node|kind|kubeconfig, E2E_FLAGS for the last)
	@$(BIN)/python -m trainedmodel_devkit prepare --e2e=$(PROVIDER)
	@$(BIN)/pytest e2e --provider=$(PROVIDER) $(E2E_FLAGS)

demo: prepare ## The whole system on this machine (ONCE=1: run through and exit)
	@$(BIN)/python -m trainedmodel_devkit demo $(if $(ONCE),--once)

bench-propagation: prepare ## From kubectl apply to Ready, split into its parts
	@$(BIN)/python benchmarks/propagation.py

bench-puller: prepare ## Speed and cost of the puller: storage against curl, archives, a thousand models, at rest
	@status=0; for name in storage puller archive; do echo; $(BIN)/python benchmarks/$$name.py || status=1; done; exit $$status

bench-hanging: prepare ## What everybody else notices of twenty sources that hang
	@$(BIN)/python benchmarks/hanging_sources.py

bench-operator: prepare ## What the operator costs with 1,000, 5,000 and 10,000 models, and with 100 reporting pods
	@$(BIN)/python benchmarks/operator_scale.py

clean: ## Remove what make made in this folder (not the cache folder)
	@rm -rf $(VENV) $(TOOLS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
