# The two commands that matter: `make book` and `make test`. `make help` shows all.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# uv from the PATH, or else one that `make install` gets into .bootstrap/
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .bootstrap/bin/uv)
# A new revision executes into a new run; the same one goes on where it stopped.
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null)
RUN ?= _build/runs/book$(if $(REVISION),-$(REVISION))
PROFILE ?= mini
STAMP := .venv/.installed
# Images of containers often set this: every process would then compile torch and the rest again, for 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP)  ## the environment .venv, exactly as locked; done again only when the lock changes

$(STAMP): requirements.lock pyproject.toml
	@$(UV) --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --root-user-action ignore --target .bootstrap uv \
	    || echo "uv cannot be had; going on with pip, which takes some minutes"
	@if $(UV) --version >/dev/null 2>&1; then $(MAKE) --no-print-directory install-uv; \
	    else $(MAKE) --no-print-directory install-pip; fi
	@touch $@

.PHONY: install-uv install-pip
install-uv:
	@echo "Building .venv from requirements.lock (6.6 GB; a minute or two)"
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python 3.11 .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .

install-pip:
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .

.PHONY: book
book: install  ## execute every notebook, then render _build/html/index.html
	$(BIN)/synreal run --all --profile $(PROFILE) --out $(RUN)
	$(BIN)/synreal book --run $(RUN) --out _build/html

# Two notebooks or two test files at a time, on one thread each: more would wait for each other. A notebook's own
# workers would only cost their start. The notebooks on photographs need those, and `make photos` executes them.
.PHONY: test
test: install  ## everything: style, types, stored outputs of the notebooks, the test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 SYNREAL_WORKERS=1 $(BIN)/pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env --ignore notebooks/photos notebooks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests

.PHONY: zoo
zoo: install  ## train the shipped models again from nothing; goes on when interrupted
	$(BIN)/python -m synreal.zoo

.PHONY: committed
committed:
	@[ -z "$$(git status --porcelain)" ] || { echo "make store, make photos: commit first, so that the stored outputs" \
	    "name the revision that made them; git status shows what is not committed" >&2; exit 2; }

.PHONY: store
store: install committed  ## execute every notebook from nothing and store its outputs in notebooks/; wants a clean tree
	SYNREAL_CACHE=$(CURDIR)/$(RUN)-cache $(BIN)/synreal run --all --out $(RUN)-store
	cp $(RUN)-store/notebooks/*.ipynb notebooks/

# The chapters that photographs can decide; that on texts where SYNREAL_TEXTS says where they lie.
ON_PHOTOS := 05_mixed $(if $(SYNREAL_TEXTS),08_text_realtune)

.PHONY: photos
photos: install committed  ## the same for the chapters on photographs, in notebooks/photos/; first `synreal get photos`
	SYNREAL_CACHE=$(CURDIR)/$(RUN)-cache $(BIN)/synreal run $(ON_PHOTOS) --profile photos --out $(RUN)-photos
	mkdir -p notebooks/photos
	cp $(RUN)-photos/notebooks/*.ipynb notebooks/photos/

.PHONY: lock
lock:  ## resolve pyproject.toml into requirements.lock (then bring environment.yml in step: the tests say how)
	$(UV) pip compile pyproject.toml --all-extras --generate-hashes --no-header --no-annotate \
	    --python-version 3.11.7 -o requirements.lock

.PHONY: clean
clean:  ## remove what is built, runs and caches included; keeps .venv
	rm -rf _build .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lib tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
