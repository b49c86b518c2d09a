# `make` lists the targets. `make up` and `make test` do all their own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
.PHONY: help
