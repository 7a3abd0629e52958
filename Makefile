# make demo | make test | make check: see `make help`.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3.11
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check --quiet --quiet
STAMP := $(VENV)/.installed
SHELL_FILES = $(shell .ci/shell-files)

.PHONY: help install system-packages check format test demo clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: system-packages $(STAMP) ## Debian packages and .venv/bin/bootfarm

system-packages:
	@.ci/system-packages

$(STAMP): pyproject.toml requirements.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --requirement requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

check: install ## format, lint, types, shell, unit tests, floors: under a minute
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	shellcheck $(SHELL_FILES)
	$(VENV)/bin/pytest -q -m "not integration and not e2e" --numprocesses 2 --dist worksteal

test: ## every test, end-to-end boots included; prints the minutes of each part
	@tests/run

demo: install ## build, serve, boot a bare machine, watch it join Kubernetes
	$(VENV)/bin/bootfarm demo

format: $(STAMP) ## let ruff format and sort
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
