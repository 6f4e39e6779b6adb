# Everything a newcomer needs: `make demo` and `make test` work on a machine with Python 3.11+ and
# a pip that can reach a package registry. The environment lives in .venv and is made once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2
RERUNS ?= 1

.PHONY: demo test test-postgres test-ray check docs code nightly bench notebooks protocol clean install help

help:           ## list the targets
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/'

install: $(READY)  ## make .venv and install everything into it

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Sommelier needs Python 3.11 or newer; this is %s. Use make PYTHON=python3.11" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -q sommelier  # where PYTHONDONTWRITEBYTECODE is set nothing else would
	touch $@

demo: $(READY)     ## download a few real models, ingest, analyse, and answer five questions
	$(BIN)/sommelier demo

test: $(READY)     ## the whole suite (zoo tests need SOMMELIER_ZOO, network tests a registry)
	$(BIN)/python -m pytest -n $(WORKERS) --reruns $(RERUNS) -rR -m "not slow" tests sommelier README.md docs

# Over a private server from Debian's packages; where a test names a file, it gets a database there.
OVER_POSTGRES = tests/storage tests/engine tests/test_connection.py tests/test_altering.py \
	tests/test_registering.py tests/test_end_to_end.py tests/test_two_databases.py tests/test_workers.py \
	tests/shell/explorer/test_query.py::test_questions_are_answered_from_a_server_and_follow_it

test-postgres: $(READY)  ## the catalog's, the engine's and some journeys' tests over PostgreSQL
	$(BIN)/python -m tests.postgres_server $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(OVER_POSTGRES)

test-ray: $(READY)  ## analysis and serving on clusters of Ray that the tests start here
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[ray]"
	$(BIN)/python -m tests.postgres_server $(BIN)/python -m pytest --reruns $(RERUNS) -rR tests/test_workers_on_ray.py
	$(BIN)/python -m pytest --reruns $(RERUNS) -rR tests/runtime/test_ray_serve.py  # of a file: not over the server

nightly: test-ray  ## the slow tests as well
	SOMMELIER_EXAMPLES=300 $(BIN)/python -m pytest -n $(WORKERS) tests sommelier README.md docs

check: $(READY)    ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)     ## the documentation site into site/; a warning fails
	$(BIN)/python -m docs.website.build site

bench: $(READY)    ## every benchmark, quick settings
	$(BIN)/python -m benchmarks.startup --quick
	$(BIN)/python -m benchmarks.query_quality --quick
	$(BIN)/python -m benchmarks.query_latency --quick
	$(BIN)/python -m benchmarks.scale --quick
	$(BIN)/python -m benchmarks.workers --quick
	$(BIN)/python -m benchmarks.concurrency --quick
	$(BIN)/python -m benchmarks.bounds --quick
	$(BIN)/python -m benchmarks.equivalence_cost --quick
	$(BIN)/python -m benchmarks.segments --quick
	$(BIN)/python -m benchmarks.links --quick
	$(BIN)/python -m benchmarks.collaborative --quick
	$(BIN)/python -m benchmarks.sla --quick
	$(BIN)/python -m benchmarks.switching --quick
	$(BIN)/python -m benchmarks.fusion --quick
	$(BIN)/python -m benchmarks.cascade --quick
	$(BIN)/python -m benchmarks.serving --quick

code: $(READY)     ## write docs/code.md, which says what every file is for, again
	$(BIN)/python -m docs.website.code_page

notebooks: $(READY) ## run every notebook as it stands
	$(BIN)/python -m pytest -o addopts= --nbmake --nbmake-timeout=600 --overwrite notebooks

protocol: $(READY)  ## write the descriptors of the gRPC protocol again
	$(BIN)/python -m sommelier.runtime.server.messages

clean:             ## remove the environment and everything built
	rm -rf $(VENV) build dist demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
