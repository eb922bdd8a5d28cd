# Each target sets up .venv by itself (scripts/setup.sh), so a fresh clone needs no other step.

PYTHON := .venv/bin/python

# Tests of one file run in one process, so that a fit which they share is made once. A process
# takes about a gigabyte of memory. The run ends with the first process that is lost: its
# successor may wait for ever.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# What Python compiles is kept: every process that a test starts would compile it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup docs demo test test-wide test-slow lint format bench rivals compare clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

setup: ## create .venv with the package and the tools of development
	@sh scripts/setup.sh dev

docs: setup ## run the code of every page, and build the site into build/docs
	$(PYTHON) -m pip install --quiet --no-deps 'marginaleffects>=0.6,<0.7'
	$(PYTHON) docs/run_pages.py --check $(CHECK)
	$(PYTHON) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

demo: ## fit Table 4.4 twice and reconcile the two answers
	@sh scripts/setup.sh
	.venv/bin/bhlm reconcile models/hsb_random_coefficient.toml

test: setup ## run every test that is not slow
	$(PYTHON) -m pytest -m "not slow and not wide and not exhaustive" $(PARALLEL)

test-wide: setup ## run whole pages, figures and studies, and what needs a browser or a server
	$(PYTHON) -m pytest -m "wide and not slow and not exhaustive" $(PARALLEL)

test-slow: setup ## run the slow tests
	$(PYTHON) -m pytest -m "slow and not exhaustive" $(PARALLEL)

lint: setup ## check style, types and the order of the rooms
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-cache

format: setup ## rewrite the code in the house format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench: ## run the speed comparisons
	@found=no; \
	for script in comparisons/speed_*.py; do \
	  [ -e "$$script" ] || continue; \
	  [ "$$found" = yes ] || { sh scripts/setup.sh dev || exit 1; }; \
	  found=yes; echo "== $$script"; $(PYTHON) "$$script" || exit 1; \
	done; \
	[ "$$found" = yes ] || echo "make bench: there is no comparisons/speed_*.py to run"

rivals: setup ## install the Python rivals that the comparisons run, into .venv-rivals, -bambi, -interlace
	[ -x .venv-rivals/bin/python ] || $(PYTHON) -m venv .venv-rivals
	.venv-rivals/bin/python -m pip install --quiet mixedlm-rs statsmodels pandas pyarrow \
	  glmm lme-python mixedlm kamino-lme
	[ -x .venv-bambi/bin/python ] || $(PYTHON) -m venv .venv-bambi
	.venv-bambi/bin/python -m pip install --quiet bambi pyarrow
	[ -x .venv-interlace/bin/python ] || $(PYTHON) -m venv .venv-interlace
	.venv-interlace/bin/python -m pip install --quiet 'interlace-lme[bobyqa]' pandas pyarrow

compare: setup ## run every rival on every model of the gallery, and make the tables and figures
	$(PYTHON) comparisons/run.py
	$(PYTHON) comparisons/figures.py

clean: ## remove caches and build products
	rm -rf build dist docs/api .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## the same, and .venv
	rm -rf .venv
