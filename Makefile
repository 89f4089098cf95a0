# Every target works in a fresh clone: the environment is made in .venv when it is not there.
VENV ?= .venv
PYTHON ?= python3
BACKBONE ?= tiny_llava
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: install demo test test-slurm coverage bench lint

install: $(VENV)/.installed

# torch first: the packages after it then take the build that is there
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e ".[dev]"
	@touch $@

demo:
	@start=$$(date +%s); $(MAKE) --no-print-directory install && \
	$(BIN)/python -m lookright.demo --backbone $(BACKBONE) --install-seconds $$(($$(date +%s) - start))

# one process a processor, one thread each; what waits is dealt anew when one has nothing left to do, so that modules
# stay together and their fixtures are made once
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 8 --dist worksteal

test: $(VENV)/.installed-dev
	$(PYTEST)

coverage: $(VENV)/.installed-dev
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html

# sweeps on a SLURM that the tests start: apt-get install slurm-wlm munge, and root
test-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -rs -m slurm tests/slurm

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=src $(BIN)/lint-imports
	PYTHONPATH=src $(BIN)/mypy
