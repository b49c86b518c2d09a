# `make` lists the targets. `make up` and `make test` do all their own set-up on a fresh machine.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down status test check static unit contract cluster-test e2e test-lives test-faults test-cni bench format generate images guests setup
# uv never touches the network in the targets below: `setup` has brought everything.
RUN := . scripts/env.sh && uv run --frozen --no-sync

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[36m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what the other targets need (uv, Python packages); each target calls it
	@scripts/bootstrap

up: setup ## bring up a cluster with Berth installed and a first VM running
	@$(RUN) python -m testbed up
	@$(RUN) python -m testbed install
	@$(RUN) python -m testbed demo

down: setup ## remove every trace of the cluster
	@$(RUN) python -m testbed down

status: setup ## show the cluster's parts
	@$(RUN) python -m testbed status

check: setup ## format, types, layers, generated files, unit and golden tests: under a minute, no root
	@$(RUN) python -m testbed.suite static unit

test: setup ## every test: check, contract, cluster, end to end (installs what it needs)
	@$(RUN) python -m testbed.suite

contract: setup ## tests against real libvirt and QEMU in the agent's image
	@$(RUN) python -m testbed.suite build contract moves packets segments

cluster-test: setup ## tests of the built-in cluster
	@$(RUN) python -m testbed.suite build cluster

e2e: setup ## end-to-end tests with real guests on the cluster
	@$(RUN) python -m testbed.suite build install e2e survival

test-lives: setup ## 200 machines come and go, one moves 50 times, a node is lost; not part of `test`
	@$(RUN) python -m testbed.suite install lives

test-faults: setup ## a hundred things break while a guest moves; not part of `test`
	@$(RUN) python -m testbed.suite build install faults cluster-faults

test-cni: setup ## the end-to-end tests of networks on another pod network, flannel's VXLAN; not part of `test`
	@$(RUN) python -m testbed.suite cni

static: setup
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-logo 2>/dev/null || { $(RUN) lint-imports; exit 1; }
	@$(RUN) berth crds --check

unit: setup ## unit, golden and scenario tests only
	@$(RUN) python -m testbed.suite unit

bench: setup ## measure against floors taken in the same run
	@$(RUN) python -m benchmarks

format: setup ## format the code
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

generate: setup ## write the generated files (CRDs, docs, goldens)
	@$(RUN) berth crds --write
	@$(RUN) python scripts/docs.py

images: setup ## build or fetch the images
	@$(RUN) python -m testbed.images

guests: setup ## build the test guests
	@$(RUN) python -m testbed.guests
