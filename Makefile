# Every target works in a fresh clone: the environment is made in .venv when it is not there.
VENV ?= .venv
PYTHON ?= python3
BACKBONE ?= tiny_llava
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: install demo test test-slurm coverage bench lint lock locked audit

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
SLURM_TESTS ?= tests/slurm
test-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -rs -m slurm $(SLURM_TESTS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=src $(BIN)/lint-imports
	PYTHONPATH=src $(BIN)/mypy

# tools that look at the environment have one of their own
TOOLS = .venv-tools
$(TOOLS)/bin/uv $(TOOLS)/bin/pip-audit:
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet "uv>=0.9,<1" "pip-audit>=2.10,<3"

# requirements.lock: the versions of constraints.txt, with hashes of every file that an index has of them
lock: $(TOOLS)/bin/uv
	@grep -v "^#\|^torch[>=]" constraints.txt > $(TOOLS)/pins.txt
	@head -1 requirements.lock > $(TOOLS)/requirements.lock
	$(TOOLS)/bin/uv pip compile --quiet --no-deps --universal --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --python-version 3.11 $(TOOLS)/pins.txt >> $(TOOLS)/requirements.lock
	@mv $(TOOLS)/requirements.lock requirements.lock

# as `make install` and what tests need, from files whose hashes are those of requirements.lock; torch is what is at hand
locked:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $(VENV)/.installed $(VENV)/.installed-dev

# known vulnerabilities of these versions, where the databases can be reached; ends with 1 where there are any
audit: $(TOOLS)/bin/pip-audit
	$(TOOLS)/bin/pip-audit --disable-pip --no-deps --strict -r requirements.lock
