# Everything from a bare Python 3.11 or later: `make demo` and `make test` build their own environments.
#
#   make demo               environment, then the demonstration
#   make test               three environments, then format, lint, types, the tests of each, and the wheel in a fourth
#   make test-mace          the tests in the first of them alone; also test-fairchem, test-both
#   make browser            Chromium for the tests of reports, where apt can install it; a part of make test
#   make test-wheel         the README's lines from the built wheel in an empty environment, a part of make test
#   make docs               the documentation as pages, in site/
#   make test VENV=/tmp/v   the same in other environments, /tmp/v, /tmp/v-fairchem, /tmp/v-both and /tmp/v-wheel
#   make test PYTHON=python3.12
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
MACE = mace-torch>=0.3.16,<0.4
BIN = $(VENV)/bin

# mace-torch and fairchem-core ask for different versions of e3nn, so each has an environment of its own, and a third one
# holds both in the one order of installation that works (docs/install.md).
FAIRCHEM = $(VENV)-fairchem
BOTH = $(VENV)-both
WHEEL = $(VENV)-wheel

# The tests are many small tensors: more threads only get in each other's way, more processes do not.
RUN = OMP_NUM_THREADS=1
WORKERS = -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-mace test-fairchem test-both test-wheel browser lint docs bench clean

demo: $(VENV)/.installed
	$(RUN) $(BIN)/hip-ext demo

test: lint test-mace test-fairchem test-both test-wheel

test-mace: $(VENV)/.installed-dev browser
	$(RUN) $(BIN)/python -m pytest $(WORKERS)

# The tests of reports want a real Chromium. Root on Debian gets it here; nobody fails for want of it, since these tests
# say what they lack and are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing chromium for the tests of reports" && \
		{ apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }; }; } || \
		echo "no Chromium, so the tests of reports in a browser are skipped: apt-get install chromium"

# What the tests above have tried already does not depend on the framework.
test-fairchem: $(FAIRCHEM)/.installed-dev
	$(RUN) $(FAIRCHEM)/bin/python -m pytest $(WORKERS) tests/test_fairchem_*.py

test-both: $(BOTH)/.installed-dev
	$(RUN) $(BOTH)/bin/python -m pytest tests/test_interop_*.py

test-wheel: $(VENV)/.installed-dev
	rm -rf dist $(WHEEL)
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install $(TORCH)
	$(WHEEL)/bin/python -m pip install "$$(ls dist/*.whl)[so3lr]"
	README_PYTHON=$(abspath $(WHEEL))/bin/python $(RUN) $(BIN)/python -m pytest tests/test_readme.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy hip_ext

# Guides and reference as pages in site/; whatever mkdocs warns of is an error.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed
	$(RUN) $(BIN)/python benchmarks/hessian_speed.py

clean:
	@for venv in $(VENV) $(FAIRCHEM) $(BOTH) $(WHEEL); do test ! -f $$venv/pyvenv.cfg || rm -rf $$venv; done
	rm -rf build dist site .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find hip_ext tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that a step is done; it is older than pyproject.toml when the dependencies may have changed.
$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install -e '.[so3lr,mace,train,thermo]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install -e '.[so3lr,mace,train,label,phonons,thermo,workflows,cluster,integrations,docs,dev]'
	touch $@

$(FAIRCHEM)/.installed-dev: pyproject.toml $(FAIRCHEM)/.torch
	$(FAIRCHEM)/bin/python -m pip install -e '.[fairchem,sevennet,train,phonons,dev]'
	touch $@

# mace-torch last, in a command of its own: it puts e3nn 0.4.4 in the place of the newer one, and pip says so.
$(BOTH)/.installed-dev: pyproject.toml $(BOTH)/.torch
	$(BOTH)/bin/python -m pip install -e '.[fairchem,so3lr,train,dev]'
	$(BOTH)/bin/python -m pip install '$(MACE)'
	touch $@

# torch goes in alone and first. Left to the rest of the requirements, pip would take the newest release and with it
# gigabytes of CUDA libraries, whichever build was wanted.
%/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hip-ext needs Python 3.11 or later: $(PYTHON) is $$($(PYTHON) --version 2>&1); give PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install $(TORCH)
	touch $@

.PRECIOUS: %/.torch
