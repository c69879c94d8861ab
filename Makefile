# Each target sets up what it needs. `make help` lists them.

VENV := .venv
PY := $(VENV)/bin/python
EXTRAS ?= control,baselines,reasoning,ray,dev
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# More workers than this only repeat the imports.
WORKERS ?= $(shell test $(CORES) -gt 8 && echo 8 || echo $(CORES))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## create .venv and install everything (EXTRAS=control,baselines,reasoning,ray,dev)

$(STAMP): pyproject.toml .ci/install
	@.ci/install $(VENV) $(EXTRAS)
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@.ci/install $(VENV) $(EXTRAS),bench
	@touch $@

demo: $(STAMP)  ## a short run of both worlds; writes one HTML report
	$(PY) -m evals.demo

# One thread per worker: two workers with two threads each would fight over two cores.
test: $(STAMP)  ## run the tests (PYTEST='-k name' narrows them)
	OMP_NUM_THREADS=1 MUJOCO_GL=$${MUJOCO_GL:-disabled} $(PY) -m pytest -q -n $(WORKERS) $(PYTEST)

lint: $(STAMP)  ## check style (ruff) and types (mypy)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(BENCH_STAMP)  ## time the planners beside other libraries (BENCH='preset=full page=docs/performance.md')
	$(PY) -m evals.bench $(BENCH)
