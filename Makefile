# One command each; every target does its own set-up in .venv. `make help` lists them.
# Only the lock files decide what is installed: versions and hashes, no addresses.

VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help run test lint unit e2e asan fuzz bench lock clean
# What is compiled, the engine and the atlas's loops, and the Python whose numbers the engine has in common.
ENGINE := setup.py $(wildcard dnsd/engine/*.p* dnsd/atlas/*.pyx dnsd/*.py dnsd/dns/*.py dnsd/image/*.py dnsd/steer/*.py)
BUILD := $(BIN)/python setup.py --quiet build_ext --inplace

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

# The tests of the rooms that have a bar for coverage; measuring makes tests twice as long.
MEASURED := $(addprefix tests/,dns steer image compile semantics golden engine hostile rtt test_odd.py test_metrics.py \
  test_disk.py) $(wildcard tests/test_answer*.py)

# What `make test` runs with sanitizers: all that reads foreign octets, without the long comparisons.
SANITIZED := $(addprefix tests/,engine/test_damage.py engine/test_runs.py engine/test_guard.py engine/test_cookies.py \
  serve/test_engine_streams.py serve/test_engine_loop.py atlas/test_compiled.py)

run: $(VENV)/.engine  ## the demo: builds what is missing, serves demo.example on 127.0.0.1:5300, Ctrl-C stops
	@scripts/demo $(BIN)

test: $(VENV)/.dev $(VENV)/.required  ## everything CI runs: lint, types, unit tests with the coverage gate, end to end
	@scripts/test-tools
	@$(MAKE) --no-print-directory lint unit asan TESTS='$(SANITIZED)'
	@$(MAKE) --no-print-directory e2e

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(VENV)/.required
	$(BIN)/pytest -q -n $(CORES) -m 'not e2e' --cov --cov-report=term $(MEASURED)
	$(BIN)/pytest -q -n $(CORES) -m 'not e2e' $(addprefix --ignore=,$(MEASURED))

e2e: $(VENV)/.required
	$(BIN)/pytest -q -n $(CORES) --dist worksteal -m e2e --ignore=tests/hostile
	$(BIN)/pytest -q -m e2e tests/hostile

asan: $(VENV)/.dev  ## the engine's tests with the address and undefined behaviour sanitizers; TESTS: only these
	scripts/asan $(BIN) $(TESTS)

fuzz: $(VENV)/.required  ## hostile input for FUZZ_SECONDS (60) at each target, or: make fuzz TARGETS=respond
	$(BIN)/python -m fuzz.run $(TARGETS)

bench: $(VENV)/.required  ## all figures of bench/RESULTS.md, about 1.5 h; make bench QUICK=1: a look, in build/bench/RESULTS.md
	@scripts/bench-tools
	@for program in $(if $(QUICK),compare,compare goodput start fleet flips atlas); do \
	  $(BIN)/python bench/$$program.py $(if $(QUICK),--quick --out build/bench/RESULTS.md,--out bench/RESULTS.md) || exit; done

lock: $(VENV)/.dev  ## pin the newest versions that pyproject.toml allows
	scripts/lock $(BIN)

clean:  ## remove the environment, caches and the demo's state
	rm -rf $(VENV) state build *.egg-info dnsd/*/*.so dnsd/*/*.c .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage

# `make run` does without the engine where it cannot be built; tests and benchmarks do not.
$(VENV)/.engine: $(ENGINE) | $(VENV)/.runtime
	@$(BUILD) && touch $@

$(VENV)/.required: $(ENGINE) | $(VENV)/.dev
	DNSD_ENGINE=require $(BUILD) && touch $@ $(VENV)/.engine

$(VENV)/.runtime: requirements.lock pyproject.toml scripts/venv
	@scripts/venv $(VENV) requirements.lock && touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml scripts/venv
	@scripts/venv $(VENV) requirements-dev.lock && touch $@ $(VENV)/.runtime
