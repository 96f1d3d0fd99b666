# Everything a developer and CI call. Each target sets up its own environment first: `.venv` with exactly the locked
# packages and the `krt` command. The machine needs Python 3.11, make and git; no environment has to be activated.

# The first interpreter on PATH that is a Python 3.11, or the one given: make PYTHON=/path/to/python3.11
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$python && break; done)
# Processes that the tests are spread over, one test file at a time each, those of the slow layers first, so that all of
# them end together; 0 runs them in pytest's own process.
WORKERS ?= 2
# Passed on to pytest or the benchmark as it is: make test ARGS="-k 'nak or ack' -x"
ARGS ?=

PIPENV_VERSION := 2026.10.3
PIPENV := .tools/bin/pipenv
# An activated environment would be installed into instead of .venv, and a .env file would change what is installed.
export PIPENV_IGNORE_VIRTUALENVS := 1
export PIPENV_VENV_IN_PROJECT := 1
export PIPENV_DONT_LOAD_ENV := 1
export PIPENV_NOSPIN := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start thousands of processes, and each would compile the runtime anew: a third of its start.
unexport PYTHONDONTWRITEBYTECODE
# And each would look through the metadata of all packages for plugins of pydantic's; there are none.
export PYDANTIC_DISABLE_PLUGINS := __all__

BIN := .venv/bin
KRT := $(BIN)/krt
READY := .venv/.packages-installed $(KRT)

.DEFAULT_GOAL := all
.PHONY: all run test attack integration container browser compose soak lint fmt types bench lock
.DELETE_ON_ERROR:

all: lint test

run: $(READY)  ## run the example workflow and send it a few requests
	$(KRT) run workflows/digits --demo

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) --ignore=test/bench --ignore=test/container --ignore=test/browser -m "not attack" $(ARGS)

# Processes and servers that are killed, frozen and filled up at every step of their work.
attack: $(READY)
	$(PYTEST) test/acceptance test/integration -m attack $(ARGS)

# On the servers of test/docker-compose.yaml where Docker runs, or those that KRT_TEST_* name; it says which.
integration: $(READY)
	$(BIN)/python -m test.integration -n $(WORKERS) --dist loadfile $(ARGS)

# The images, built and run with podman as root: some minutes, or skipped with what is missing.
container: $(READY)
	$(BIN)/python -m pytest test/container $(ARGS)

# Pages in Chromium (apt-get install chromium fonts-dejavu-core), or skipped where there is none.
browser: $(READY)
	$(BIN)/python -m pytest test/browser $(ARGS)

compose: $(READY)  ## the compose files of examples anew, after a change of what `krt compose` prints
	cd docker && ../$(KRT) compose ../workflows/digits --image krt-digits > compose.yaml
	cd workflows/algorithms && ../../$(KRT) compose . \
		--mongo-uri sqlite:////data/documents --influx-uri sqlite:////data/points > compose.yaml

lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

fmt: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m test.bench $(ARGS)

# A million messages through a workflow whose processes and server are killed and frozen: about ten minutes.
soak: $(READY)
	$(BIN)/python -m test.soak $(ARGS)

# pipenv writes the package index of this machine into the lock; it is taken out again, for the next machine has its own.
EMPTY_SOURCES := import json, pathlib; \
	path = pathlib.Path("Pipfile.lock"); \
	lock = json.loads(path.read_text()); \
	lock["_meta"]["sources"] = []; \
	path.write_text(json.dumps(lock, indent=4) + "\n")

lock: $(PIPENV)
	$(PIPENV) lock
	.tools/bin/python -c '$(EMPTY_SOURCES)'

$(PIPENV):
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed and not on PATH; install it, or say where it is:" \
		"make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .tools
	.tools/bin/python -m pip install --quiet pipenv==$(PIPENV_VERSION)

# --deploy fails when Pipfile and Pipfile.lock differ, instead of locking anew.
.venv/.packages-installed: Pipfile Pipfile.lock | $(PIPENV)
	$(PIPENV) install --dev --deploy
	touch $@

# The project itself, so that `krt` and `import runtime` work from every folder.
$(KRT): pyproject.toml .venv/.packages-installed
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	touch $@
