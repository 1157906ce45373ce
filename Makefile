# Steelyard. `make demo` runs the main job, `make test` all tests; each sets itself up. Needs Python 3.11 or newer and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# the first that runs and is new enough; a version manager's shim may be there and not run
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13; do \
  $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_STAMP := contracts/node_modules/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2

BENCH_PACKAGES := bench/verification/.packages
BENCH_STAMP := $(BENCH_PACKAGES)/.installed

.PHONY: help setup demo demo-trust up down test check format lock contracts bench-gateway bench-relay bench-faults bench-verification fuzz soak nightly clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(STAMP) ## Install everything into .venv, locked by hashes

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Steelyard needs Python 3.11 or newer, and none was found. Name one: make PYTHON=/path/to/python3 setup"; exit 2; }
	@echo "Setting up $(VENV) (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade "pip>=24"
	@$(PIP) install --progress-bar off --require-hashes -r requirements.lock 2>&1 | tee $(VENV)/setup.log | \
	 awk -v all=$$(grep -c '^[A-Za-z].*==' requirements.lock) '/^(Collecting|Ignoring|Requirement already)/ { n++ } \
	 /^Installing collected/ { what = "installing" } /^Successfully/ { n = all; what = "installed " } n what != last { \
	 last = n what; bar = sprintf("%*s", 40 * n / all, ""); gsub(/ /, "#", bar); \
	 printf "\r  [%-40s] %d of %d %s", bar, n, all, what; fflush() } END { print "" }'; \
	 test $${PIPESTATUS[0]} = 0 || { tail -20 $(VENV)/setup.log; exit 1; }
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Run the whole loop for real: chain, gateway, three providers, 20 chats, 5 embeddings, payment, audit
	@$(BIN)/steelyard demo

demo-trust: $(STAMP) ## Two cheats among honest providers: checked, challenged, judged, slashed, out of work
	@$(BIN)/steelyard demo trust

up: $(STAMP) ## Keep that network running, with a base URL and a key to paste
	@$(BIN)/steelyard up

down: $(STAMP) ## Stop it
	@$(BIN)/steelyard down

# Node.js is for tests alone (the Solidity compiler, anvil); without it those tests skip and say so.
$(NODE_STAMP): contracts/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix contracts --silent --no-fund --no-audit && touch $@; \
	 else echo "npm is missing: tests that need Node.js will skip"; fi

test: $(STAMP) $(NODE_STAMP) ## Run every test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations 15

nightly: $(STAMP) $(NODE_STAMP) ## The same, looking ten times longer, and what takes minutes
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --timeout 600

check: $(STAMP) ## Lint, types, and the order of the rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

lock: ## Compile requirements.lock anew (needs uv)
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	 --extra node --extra gateway --extra dev --extra peers --group build pyproject.toml -o requirements.lock

contracts: $(NODE_STAMP) ## Compile the contracts into the package (needs Node.js)
	@node contracts/build.mjs

bench-gateway: $(STAMP) ## Measure the gateway beside nginx and LiteLLM (needs nginx)
	@$(BIN)/python bench/gateway/run.py

bench-relay: $(STAMP) ## Measure the relay of a blockchain's RPC beside nginx (needs nginx)
	@$(BIN)/python bench/relay/run.py

bench-faults: $(STAMP) ## Play every fault of a provider against the gateway, and through LiteLLM beside it
	@$(BIN)/python bench/faults/run.py

# numpy is for this bench alone: in a folder of its own, not in the lock
$(BENCH_STAMP): $(STAMP)
	@$(PIP) install --quiet --target $(BENCH_PACKAGES) --upgrade "numpy>=2" && touch $@

bench-verification: $(BENCH_STAMP) ## Hold every promise about checking against what was recorded of real engines
	@PYTHONPATH=$(BENCH_PACKAGES) $(BIN)/python bench/verification/run.py

soak: $(STAMP) ## Break a network under load for SECONDS (600), by SEED, and ask every book
	@$(BIN)/python bench/soak/run.py $(addprefix --seconds ,$(SECONDS)) $(addprefix --seed ,$(SEED))

fuzz: $(STAMP) ## A million fuzzed blobs at everything that reads evidence
	@$(BIN)/python bench/verification/fuzz.py

clean: ## Remove what was installed and built here
	@rm -rf $(VENV) $(BENCH_PACKAGES) contracts/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
