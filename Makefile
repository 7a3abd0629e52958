# make demo | make test | make check: see `make help`.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3.11
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check --quiet --quiet
STAMP := $(VENV)/.installed
UNIT := -m "not integration and not e2e"
SHELL_FILES = $(shell .ci/shell-files)

.PHONY: help install system-packages check lint compile format test demo fuzz bench bench-quick clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: system-packages $(STAMP) ## Debian packages and .venv/bin/bootfarm

system-packages:
	@.ci/system-packages

$(STAMP): pyproject.toml requirements.txt $(wildcard server/fastpath/*.[ch])
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --requirement requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Bytecode is kept, also where the environment says not to: servers that tests start
# need not compile themselves anew, and the two workers of pytest find the tests
# compiled by the run that only collects them, beside the linters on the other core.
check: export PYTHONDONTWRITEBYTECODE :=
check: export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
check: install ## format, lint, types, shell, unit tests, floors: under a minute
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint compile
	$(VENV)/bin/pytest -q $(UNIT) --numprocesses 2 --dist worksteal

lint: ## format, lint, types, shell
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	shellcheck $(SHELL_FILES)

compile:
	@$(VENV)/bin/pytest -qq $(UNIT) --collect-only >/dev/null || true # the run itself tells

test: ## every test, end-to-end boots included; prints the minutes of each part
	@tests/run

demo: install ## build, serve, boot a bare machine, watch it join Kubernetes
	$(VENV)/bin/bootfarm demo

FUZZ_PYTHON := .venv-fuzz/bin/python
EXECUTIONS ?= 10000000

fuzz: $(FUZZ_PYTHON) ## coverage-guided fuzzer on each core: EXECUTIONS=10000000 CORE=nbd; records it
	$(FUZZ_PYTHON) -m fuzz.campaign --executions $(EXECUTIONS) $(addprefix --core ,$(CORE)) --record

$(FUZZ_PYTHON): fuzz/requirements.txt requirements.txt
	@$(PYTHON) -m venv .venv-fuzz
	@.venv-fuzz/bin/pip --disable-pip-version-check --quiet install -r requirements.txt -r fuzz/requirements.txt
	@touch $@

bench: install ## side by side with other servers: the whole table, an hour; docs/performance.md
	$(VENV)/bin/python -m bench --record docs/performance.md

bench-quick: install ## the same with short runs, three minutes; writes build/bench/quick.json
	$(VENV)/bin/python -m bench --quick --output build/bench/quick.json

format: $(STAMP) ## let ruff format and sort
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
