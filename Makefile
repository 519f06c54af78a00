# make up: Dagster UI with a nightly backup that was proven.  make test: every test this machine can run.
PORT ?= 3000
HOMELAB_HOME ?= .homelab
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
STAMP := .venv/.synced
PYTEST_ARGS ?=

.PHONY: help setup up test test-docker test-kubernetes check bench clean

help:
	@echo 'make up      start everything on http://127.0.0.1:$(PORT) and run the first proven backup (PORT=, HOMELAB_HOME=)'
	@echo 'make test    run every test this machine can run (PYTEST_ARGS=)'
	@echo 'make test-kubernetes  those alone that need a Kubernetes cluster; it is compiled once a machine, some minutes'
	@echo 'make test-docker   the tests with a Docker Engine alone: image, containers, deployment under Docker'
	@echo 'make setup   the environment in .venv/, so that .venv/bin/homelab is the command'
	@echo 'make check   lint, format, types, import contract'
	@echo 'make bench   measure backups against pg_dump on a 1 GB database, into benchmarks/RESULTS.md'
	@echo 'make clean   remove the environment (not .homelab/, which holds data)'

setup: $(STAMP)

$(STAMP): pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --quiet --extra demo --extra compose --compile-bytecode
	@.venv/bin/python -m compileall -q homelab_pipelines
	@touch $@

.uv/bin/uv:
	@python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'make setup: Python 3.11 or newer with venv is needed; next: apt install python3 python3-venv' >&2; exit 1; }
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

up: $(STAMP)
	@HOMELAB_HOME=$(abspath $(HOMELAB_HOME)) exec .venv/bin/homelab up --port $(PORT)

test: $(STAMP)
	.venv/bin/python -m pytest $(PYTEST_ARGS)

test-docker: $(STAMP)
	.venv/bin/python -m pytest -m docker $(PYTEST_ARGS)

test-kubernetes: $(STAMP)
	.venv/bin/python -m pytest -m kubernetes $(PYTEST_ARGS)

check: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: $(STAMP)
	.venv/bin/python benchmarks/backup.py --results benchmarks/RESULTS.md

clean:
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis
