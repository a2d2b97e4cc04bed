# Everything from a bare Python 3.11 or later: `make demo` and `make test` build their own environment.
#
#   make demo               environment, then the demonstration
#   make test               environment with the development tools, then format, lint, types and tests
#   make test VENV=/tmp/v   the same in another environment
#   make test PYTHON=python3.12
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin

# The tests are many small tensors: more threads only get in each other's way.
RUN = OMP_NUM_THREADS=1

.PHONY: demo test lint bench clean

demo: $(VENV)/.installed
	$(RUN) $(BIN)/hip-ext demo

test: lint
	$(RUN) $(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy hip_ext

bench: $(VENV)/.installed
	$(RUN) $(BIN)/python benchmarks/hessian_speed.py

clean:
	@test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find hip_ext tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that a step is done; it is older than pyproject.toml when the dependencies may have changed.
$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install -e '.[so3lr,mace,train]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install -e '.[so3lr,mace,train,dev]'
	touch $@

# torch goes in alone and first. Left to the rest of the requirements, pip would take the newest release and with it
# gigabytes of CUDA libraries, whichever build was wanted.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hip-ext needs Python 3.11 or later: $(PYTHON) is $$($(PYTHON) --version 2>&1); give PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(TORCH)
	touch $@
