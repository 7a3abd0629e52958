# make demo | make test | make check: see `make help`.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3.11
VENV := .venv
PYTEST ?= $(VENV)/bin/pytest
PIP := $(VENV)/bin/pip --disable-pip-version-check --quiet --quiet
STAMP := $(VENV)/.installed
UNIT := -m "not integration and not e2e"
SHELL_FILES = $(shell .ci/shell-files)

.PHONY: help install system-packages lock lock-base check lint compile format test test-cluster test-kubernetes test-deb test-helm test-floods deb demo docs fuzz dist release-check bench bench-boot bench-quick kubernetes-bump clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: system-packages $(STAMP) ## Debian packages and .venv/bin/bootfarm

system-packages:
	@.ci/system-packages

$(STAMP): pyproject.toml requirements.txt $(wildcard server/fastpath/*.[ch])
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes --requirement requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

LOCK := .venv-lock/bin/pip-compile --quiet --allow-unsafe --generate-hashes --strip-extras \
	--no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade)

lock: .venv-lock/bin/pip-compile ## pins and hashes of the Python packages anew; UPGRADE=1: newest versions
	$(LOCK) --extra=container --extra=dev --output-file=requirements.txt pyproject.toml
	$(LOCK) --output-file=fuzz/requirements.txt fuzz/requirements.in
	$(LOCK) --output-file=docs/site/requirements.txt docs/site/requirements.in
	$(LOCK) --output-file=rack/kubernetes/go.txt rack/kubernetes/go.in

.venv-lock/bin/pip-compile:
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/pip --disable-pip-version-check --quiet install pip-tools==7.6.2
	@touch $@

lock-base: ## the base image's digest in the Dockerfile anew, from Docker Hub
	@container/renew-base

# Bytecode is kept, also where the environment says not to: servers that tests start
# need not compile themselves anew, and the two workers of pytest find the tests
# compiled by the run that only collects them, beside the linters on the other core.
check: export PYTHONDONTWRITEBYTECODE :=
check: export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
check: install ## format, lint, types, shell, unit tests, floors: two minutes
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint compile
	$(PYTEST) -q $(UNIT) --numprocesses 2 --dist worksteal

lint: ## format, lint, types, shell
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	shellcheck $(SHELL_FILES)

compile:
	@$(VENV)/bin/pytest -qq $(UNIT) --collect-only >/dev/null || true # the run itself tells

test: ## every test, end-to-end boots included; prints the minutes of each part
	@tests/run

test-cluster: install ## not in CI: cluster network, production.yaml, certificates, rollouts, two servers, a checked root; two hours
	$(VENV)/bin/pytest -m e2e tests/e2e/test_network.py tests/e2e/test_production.py tests/e2e/test_join.py \
		tests/e2e/test_rollout.py tests/e2e/test_failover.py tests/e2e/test_verity.py

test-kubernetes: install ## not in CI: kubelets of five versions join; hours when cold; table in docs/kubernetes.md
	$(VENV)/bin/python -m tests.versions --record

deb: ## both Debian packages in build/deb, in a clean chroot, seen by lintian; as root
	@debian/make build/deb

test-deb: install deb ## not in CI: the packages in a fresh chroot: installed, served, removed, purged; minutes
	$(VENV)/bin/pytest -m e2e tests/debian

test-floods: install ## not in CI, as root: floods on each service; ten minutes; records it
	$(VENV)/bin/python -m tests.floods $(if $(ONLY),--only $(ONLY),--record docs/security.md)

demo: install ## build, serve, boot a bare machine, watch it join Kubernetes
	$(VENV)/bin/bootfarm demo

FUZZ_PYTHON := .venv-fuzz/bin/python
EXECUTIONS ?= 10000000

fuzz: $(FUZZ_PYTHON) ## coverage-guided fuzzer on each core: EXECUTIONS=10000000 CORE=nbd; records it
	$(FUZZ_PYTHON) -m fuzz.campaign --executions $(EXECUTIONS) $(addprefix --core ,$(CORE)) --record

$(FUZZ_PYTHON): fuzz/requirements.txt requirements.txt
	@$(PYTHON) -m venv .venv-fuzz
	@.venv-fuzz/bin/pip --disable-pip-version-check --quiet install --require-hashes \
		-r requirements.txt -r fuzz/requirements.txt
	@touch $@

DIST := build/dist

dist: install ## wheel and sdist in build/dist (docs/install.md)
	@rm -rf build/dist-source $(DIST)
	@mkdir -p build/dist-source
	@git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- \
		--ignore-failed-read | tar --extract --directory=build/dist-source
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/bin/python -m build --no-isolation \
		--outdir $(DIST) build/dist-source
	@rm -rf build/dist-source

release-check: install ## what a release would lack: version, changelog, clean tree, generated pages
	@$(VENV)/bin/pytest -qq tests/docs tests/test_supply.py
	@$(VENV)/bin/python -m tests.release

bench: install ## side by side with other servers: the whole table, an hour; docs/performance.md
	$(VENV)/bin/python -m bench --record docs/performance.md

bench-boot: install ## not in CI: power-on to login, ours and LTSP's in turns; half an hour; docs/performance.md
	$(VENV)/bin/python -m bench.boot --record docs/performance.md

bench-quick: install ## the same with short runs, three minutes; writes build/bench/quick.json
	$(VENV)/bin/python -m bench --quick --output build/bench/quick.json

kubernetes-bump: install ## another Kubernetes for rack and recipes: VERSION=1.37.3
	@$(VENV)/bin/python -m rack.kubernetes.bump $(VERSION)

format: $(STAMP) ## let ruff format and sort
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

SITE := build/site

docs: .venv-docs/bin/mkdocs ## the documentation as a site in build/site, every link checked
	@PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 .venv-docs/bin/mkdocs build --quiet --strict --clean \
		--site-dir $(SITE)
	@echo $(SITE)/index.html

.venv-docs/bin/mkdocs: docs/site/requirements.txt
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/pip --disable-pip-version-check --quiet install --require-hashes \
		-r docs/site/requirements.txt
	@touch $@

test-helm: install ## not in CI: helm, compiled once, renders and lints charts/bootfarm beside kustomize
	@$(VENV)/bin/python -m tests.helm
	$(VENV)/bin/pytest -m integration tests/k8s/test_helm.py
