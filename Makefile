# Everything a newcomer types. `make quickstart` and `make test` need python3 (3.11 or 3.12) and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
UV_VERSION := 0.13.8
export UV_COMPILE_BYTECODE = 1
export UV_PYTHON_DOWNLOADS = never

# The tests of one file share a worker, and so its fixtures and what JAX has compiled for them.
WORKERS = -n 2 --dist loadfile --no-loadscope-reorder

UV_INSTALL = $(BIN)/uv pip install --python $(BIN)/python --constraints requirements.lock

.PHONY: help quickstart test test-all check format lock docs bench bench-data bench-peers bench-executor torch clean

help:
	@echo "make quickstart   raw text to a trained, verified, evaluated, reported model"
	@echo "make test         the tests, under 10 minutes on 2 cores"
	@echo "make test-all     the slow ones too"
	@echo "make check        formatting, lint, types, dependencies"
	@echo "make format       format the code"
	@echo "make lock         renew requirements.lock from pyproject.toml"
	@echo "make docs         build the documentation into site/"
	@echo "make bench        benchmarks (need torch: make torch)"
	@echo "make bench-data   every stage of data processing, beside the peers that are installed"
	@echo "make bench-executor   the executor beside other workflow systems, each in an environment below .venv-bench/"

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "marin needs Python 3.11 or 3.12, and $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv pyproject.toml requirements.lock
	@echo "installing marin with what the quickstart needs (once; about 1.2 GB on the disk)"
	@$(UV_INSTALL) -e '.[train,data,report]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml requirements.lock
	@echo "installing marin with what the tests need (once; about 2.5 GB on the disk)"
	@$(UV_INSTALL) -e '.[train,data,extractors,gigatoken,onnx,report,evaluation,docs,dev,ray,remote,tensorboard,wandb,trackio]'
	@touch $@ $(STAMPS)/run

# PyTorch is a peer and an oracle of tests and benchmarks, never a dependency; pip finds the CPU build where one is offered.
$(STAMPS)/torch: $(STAMPS)/dev
	@echo "installing PyTorch (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

quickstart: $(STAMPS)/run
	@$(BIN)/python experiments/quickstart.py $(ARGS)

test: $(STAMPS)/dev
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-all: $(STAMPS)/dev
	@$(BIN)/python -m pytest $(WORKERS) -m '' $(ARGS)

torch: $(STAMPS)/torch

check: $(STAMPS)/dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/deptry src

format: $(STAMPS)/dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(STAMPS)/venv
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --quiet --output-file requirements.lock

docs: $(STAMPS)/dev
	@$(BIN)/mkdocs build --strict

bench: $(STAMPS)/torch
	@$(BIN)/python benchmarks/bench_train_cpu.py

bench-data: $(STAMPS)/dev
	@$(BIN)/python -m benchmarks.bench_data $(ARGS)

bench-peers: $(STAMPS)/dev
	@$(BIN)/python benchmarks/bench_executor.py --setup

bench-executor: bench-peers
	@$(BIN)/python benchmarks/bench_executor.py

clean:
	rm -rf $(VENV) .venv-bench site dist build
