# L3 Muscle. Every target makes the environment it needs and may be run again at any time.
#
#   make book    run the study, execute the notebooks, build the book       make book PROFILE=smoke for a first look
#   make test    pass the linter and the tests
#   make help    the other targets

PROFILE ?= laptop
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Where the environment was made: its scripts hold absolute paths, so a folder that has moved needs a new one.
MADE_IN := $(VENV)/.made-in

# The larger packages take longer than uv's 30 seconds on a slow line.
export UV_HTTP_TIMEOUT ?= 300

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book test pages lab bench soak mutants coverage audit env lock clean distclean

help:
	@echo 'make book       set everything up, run the study, build the book (PROFILE=$(PROFILE))'
	@echo 'make test       set everything up, pass the tests'
	@echo 'make pages      visit every page of the built book in a browser (needs Chromium)'
	@echo 'make lab        play: JupyterLab on a notebook that trains small networks before your eyes'
	@echo 'make bench      compare with other libraries, half a quiet hour (2 cores); outcome in results/bench'
	@echo 'make soak       damaged files for every reader (an hour on 2 cores); outcome in results/soak'
	@echo 'make mutants    change the measures, losses, models, augmentation and statistics, and see which tests miss (hours)'
	@echo 'make coverage   branch coverage of the package by the tests'
	@echo 'make audit      look the locked packages up among known vulnerabilities (needs the network)'
	@echo 'make env        only set up $(VENV) (PYTHON=$(PYTHON))'
	@echo 'make lock       write requirements.lock and that of benchmarks/ anew'
	@echo 'make clean      remove what the targets made, the study in runs/ included; keeps $(VENV)'
	@echo 'make distclean  the same, and $(VENV), $(BENCH)'

book: $(READY)
	@$(BIN)/l3muscle book --profile $(PROFILE)

test: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

pages: $(READY)
	@$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal book/tests

# On copies that are kept: what is played with stays out of the notebooks that the book is made from.
lab: $(READY)
	@mkdir -p play && for name in playground one_model pretrain experiment; do \
	  [ -e play/$$name.ipynb ] || cp notebooks/$$name.ipynb play/; done
	@$(BIN)/jupyter lab --ServerApp.root_dir=. play/playground.ipynb

# What we compare with goes into an environment of its own, with the same versions of everything that both have. A library
# that does not install on this machine is left out, and the results say so. SIZE=quick makes every row, with few repeats;
# BENCH_FLAGS='--task-seconds 60 --task-repeats 5' gives the trainings of its part `task` more time.
SIZE ?= full
BENCH := .venv-bench
BENCH_INSTALL = $(BIN)/uv pip install --quiet --python $(BENCH)/bin/python
bench: $(READY)
	@[ "$$(cat $(BENCH)/.made-in 2>/dev/null)" = "$(CURDIR)" ] \
	  || { $(BIN)/uv venv --quiet --clear --python $(BIN)/python $(BENCH) && echo "$(CURDIR)" > $(BENCH)/.made-in; }
	@$(BENCH_INSTALL) --compile-bytecode --requirement benchmarks/requirements.lock \
	  || { $(BENCH_INSTALL) --requirement requirements.lock; \
	    for peer in $$(sed -n '/^bench = /,/^]/s/^ *"\([a-z0-9-]*\).*/\1/p' pyproject.toml); do \
	      $(BENCH_INSTALL) --constraint benchmarks/requirements.lock $$peer || echo "$$peer is left out"; done; }
	@$(BENCH_INSTALL) --no-deps --editable .
	@$(BENCH)/bin/python benchmarks/bench.py --size $(SIZE) $(BENCH_FLAGS)

# Atheris guides the damage by coverage; it has wheels for Linux only, so it is no part of the lock.
soak: $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --only-binary atheris 'atheris>=3,<4' \
	  || echo 'no Atheris for this machine: the damage is blind'
	@$(BIN)/python tests/soak.py

mutants: $(READY)
	@$(BIN)/mutmut run
	@$(BIN)/python tests/mutants.py

coverage: $(READY)
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal --cov=l3muscle --cov-branch --cov-report=term-missing:skip-covered

# Says aloud what it could not do, and fails on a vulnerability only. Behind a mirror pip-audit finds no advisories and
# ends well, package by package: what it did not look up is counted.
audit: $(READY)
	@$(BIN)/pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off --timeout 20 \
	  > .audit 2>&1; code=$$?; skipped=$$(grep -c 'could not be audited' .audit); grep -v 'could not be audited' .audit; \
	if [ $$code -ne 0 ] && ! grep -qE 'Found [0-9]+ known' .audit; then \
	  echo 'AUDIT SKIPPED: the advisories cannot be reached from here'; code=0; \
	elif [ $$skipped -ne 0 ]; then \
	  echo "AUDIT SKIPPED for $$skipped of $$(grep -c '==' requirements.lock) packages: their index answers without advisories"; \
	fi; rm -f .audit; exit $$code

env: $(READY)

lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url \
	  --custom-compile-command 'make lock' pyproject.toml --output-file requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group pyproject.toml:bench --no-emit-index-url \
	  --constraint requirements.lock --custom-compile-command 'make lock' pyproject.toml \
	  --output-file benchmarks/requirements.lock

clean:
	rm -rf book/_build book/executed runs mutants build dist .pytest_cache .ruff_cache
	@find src tests benchmarks notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(BENCH)

# --- the environment -------------------------------------------------------------------------------------------

# Prints what is wrong with $(PYTHON); prints nothing where it will do.
define python_fault
$(shell command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "there is no $(PYTHON) on this machine"; exit; }; \
  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
    { echo "$(PYTHON) is `"$(PYTHON)" -V 2>&1 | head -n 1`"; exit; }; \
  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
    echo "$(PYTHON) comes without venv (on Debian and Ubuntu: apt install python3-venv)")
endef

define require_python
$(if $(strip $(python_fault)),$(error L3 Muscle needs Python 3.11 or newer with venv, but $(strip $(python_fault)); \
  name another with PYTHON=/path/to/python3))
endef

ifneq ($(shell cat $(MADE_IN) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

# The stamp comes last: an environment left half-made, by a full disk or a lost line, is taken up again.
# Compiling what every process imports saves each of them ten seconds where Python may not write caches of its own.
# uv, not pip, reads the lock: pip would take whatever torch wheel a machine happens to offer it.
$(READY): pyproject.toml requirements.lock
	$(require_python)@echo "setting up $(VENV): downloads a few GB the first time, most of it torch"
	@rm -f $(READY)
	@[ "$$(cat $(MADE_IN) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || { "$(PYTHON)" -m venv --clear $(VENV) && echo "$(CURDIR)" > $(MADE_IN); }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check 'uv>=0.5,<1'
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)
