# Everything a fresh machine needs is Python >= 3.10 and make. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2

.PHONY: help install demo test lint types imports docs check check-claims clean
.DEFAULT_GOAL := help

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[pretrained,dev]'
	touch $(STAMP)

install: $(STAMP) ## build .venv and install (a second run does nothing)

demo: $(STAMP)   ## the main job on built-in scenes: search, train, export, measure, report
	$(BIN)/catchweight demo --out runs/demo

test: $(STAMP)   ## the fast tests, two processes of one thread each (WORKERS=4: more; WORKERS=0: in one process)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(STAMP)   ## ruff: rules and format (no cache: it does not notice that a new module changed the order of imports)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy over the package
	$(BIN)/mypy

imports: $(STAMP) ## the import contract between rooms
	$(BIN)/lint-imports

docs: $(STAMP)   ## the site, into build/site; a broken link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

check: lint types imports docs test ## all that CI runs

check-claims: $(STAMP) ## slow tests: real data and the claim checks of the published systems
	$(BIN)/python -m pytest -m slow

clean:           ## remove .venv and caches (run folders stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
