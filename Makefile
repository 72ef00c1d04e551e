# make demo   the main job with all defaults, its figures, and what they answer
# make test   environment, linter, type checker, tests of a moment each; make test-long those of seconds, too
# make docs   the site of docs/ in build/docs, read anew; a broken link or anchor fails it
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= store
# A machine with a GPU wants its own torch build: make demo CONSTRAINTS=
CONSTRAINTS ?= -c constraints.txt

# Of what is installed a tenth is ever imported: Python compiles that when it first is, also where the environment says
# that it may not keep what it compiled.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
export PYTHONDONTWRITEBYTECODE :=

TESTS  := $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

.PHONY: demo lint test test-long test-slow docs env clean

demo: $(VENV)/.installed
	$(BIN)/python run.py -m hydra/launcher=local ae.f=1,4,8,16,32 store=$(STORE)
	$(BIN)/python analysis/plot_tradeoffs.py --store $(STORE)
	$(BIN)/python analysis/ask.py --store $(STORE)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(TESTS)

test-long: lint
	$(TESTS) -m 'not slow'

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -E -b html -c docs -W --keep-going -q -j auto . build/docs
	@echo "open build/docs/index.html"

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) torch
	$(PIP) $(CONSTRAINTS) -e .
	$(BIN)/python -c 'import experiments.main, hydra.main, analysis.plot_tradeoffs'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) $(CONSTRAINTS) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) $(CONSTRAINTS) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
