# make book   render _build/html from the stored outputs
# make test   everything that must hold
# make run    execute the notebooks in place (NB=notebooks/03_looped_rnn.ipynb for one of them)
# make anywhere  the notebooks as other processors compute them (hours; goes on where it stopped)
# make soak   saves killed, damaged and crafted checkpoints, servers that lie (half an hour)
# make oldest the unit tests with the oldest versions that the package admits (3 GB of torch)
# make requirements  requirements.txt anew from pyproject.toml (UP=--upgrade for newer versions)
# make lint   ruff and mypy;  make clean  removes what was built, not .venv

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
ALL := $(sort $(wildcard notebooks/*.ipynb))
# the floors of A1 come first: other notebooks read them
NB ?= $(filter notebooks/A1%,$(ALL)) $(filter-out notebooks/A1%,$(ALL))

.PHONY: book test run anywhere soak oldest requirements lint clean

book: $(READY)
	$(BIN)/jupyter-book build . --quiet
	@echo "Open file://$(CURDIR)/_build/html/index.html"

test: lint
	$(BIN)/python -m pytest -q tests --ignore=tests/test_rendered.py
ifneq ($(ALL),)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --nbval notebooks/ -n 2 --dist loadfile
else
	@echo "There are no notebooks yet."
endif
	rm -rf _build
	$(BIN)/jupyter-book build . -W --keep-going --quiet
	$(BIN)/python -m pytest -q tests/test_rendered.py

run: $(READY)
ifneq ($(strip $(NB)),)
	$(BIN)/python book/tools/run.py $(NB)
else
	@echo "There are no notebooks yet."
endif
	$(BIN)/python book/tools/pages.py
	$(BIN)/python book/tools/bound.py --fill
	$(BIN)/python book/tools/run.py --normalise-only $(ALL)
	$(BIN)/python book/tools/checklist.py

anywhere: $(READY)
	$(BIN)/python book/tools/anywhere.py $(NB)

soak: $(READY)
	$(BIN)/python book/tools/soak.py

# of the package's own dependencies: the lower bounds as versions, the caps as they are
OLDEST := $(shell sed -n -e '/^dependencies/,/^]/s/^ *"\(.*\)>=\([0-9.]*\)".*/\1==\2/p' \
  -e '/^dependencies/,/^]/s/^ *\("[a-z-]*<[0-9.]*"\).*/\1/p' pyproject.toml)
oldest:
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet $(OLDEST) pytest hypothesis pyyaml nbformat
	OMP_NUM_THREADS=1 PYTHONPATH=. .venv-oldest/bin/python -m pytest -q \
	  $(shell grep -L "book_reader\|small_notebooks" tests/test_*.py)

# What is pinned stays as it is. Of what torch needs only what every build does: pip adds the CUDA
# libraries where the build that it takes has them.
TORCH := "filelock", "fsspec>=0.8.5", "jinja2", "networkx>=2.5.1", "setuptools>=77.0.3", \
  "sympy>=1.13.3", "typing-extensions>=4.10.0"
requirements: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/uv uv
	echo 'dependency-metadata = [{name = "torch", requires-dist = [$(TORCH)]}]' > .venv/uv/uv.toml
	.venv/uv/bin/uv pip compile pyproject.toml --extra book --output-file requirements.txt $(UP) \
	  --python-version 3.11 --python-platform linux --annotation-style line --quiet \
	  --config-file .venv/uv/uv.toml --custom-compile-command "make requirements"
	echo "-e ." >> requirements.txt

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy charlm_utils

clean:
	rm -rf _build dist .pytest_cache .ruff_cache .hypothesis .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: none was found."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: $(PYTHON) is $$($(PYTHON) -V)."; exit 1; }
	$(PYTHON) -m venv .venv

$(READY): requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -r requirements.txt
	@touch $@
