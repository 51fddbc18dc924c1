# Two commands: `make audit` and `make test`. Needs Python 3.11 or newer, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Tests of exact attacks, which must not depend on how a processor rounds.
EXACT := $(patsubst %,tests/attacks/test_%.py,april cocktail_party feature_inversion linear_layer peeling rgap \
	signal_matching spear unmixing) tests/inversion/test_features.py
# Intel's processors obey MKL_ENABLE_INSTRUCTIONS, others MKL_CBWR.
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	MKL_CBWR=COMPATIBLE

.PHONY: audit test exact coverage lint readme docs dist smoke check clean

audit: $(VENV)/.installed
	$(BIN)/leakgauge audit $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto $(ARGS)

# Once without vector instructions and with two threads, once with every update moved by one unit in the last place.
exact: $(VENV)/.installed-dev
	$(PLAIN) OMP_WAIT_POLICY=PASSIVE LEAKGAUGE_TEST_THREADS=2 $(BIN)/python -m pytest -n auto $(EXACT) $(ARGS)
	LEAKGAUGE_TEST_ULP=1 $(BIN)/python -m pytest -n auto $(EXACT) $(ARGS)

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --cov --cov-report=term-missing:skip-covered $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The README's commands, and the code of every page as it is printed.
readme: $(VENV)/.installed-dev
	$(BIN)/python tests/quickstart.py
	$(BIN)/python tests/pages.py

# The documentation site, in build/docs. A warning, or a link to nothing, is an error.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	$(BIN)/python tests/links.py build/docs

# A source distribution, and the wheel that is built from it alone.
dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build .

# The wheel in a new environment, used from an empty folder.
smoke: dist
	$(BIN)/python tests/smoke.py dist/*.whl

check: lint test exact readme docs smoke

# torch first and pinned: without that, another package may pull a build with gigabytes of CUDA.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "LeakGauge needs Python 3.11 or newer: make PYTHON=python3.11 audit")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r constraints.txt
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e . -c constraints.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache
