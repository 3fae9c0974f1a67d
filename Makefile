# Two commands do all the set-up: make demo, make test. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
# Emulated hosts are root's containers; everything else runs as whoever calls make.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=HEDGEROW_VAR,HEDGEROW_PYTHON,HEDGEROW_SITE_TESTS,CI)
MOLECULE := $(SUDO) tools/molecule.sh
INVENTORY ?= inventory/emulated
FAST := not fleet and not slow

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: ## Missing Debian packages and .venv with the hedgerow command
	@tools/bootstrap.sh controller

.PHONY: dev
dev: ## The same with linters and test tools
	@tools/bootstrap.sh dev

.PHONY: demo
demo: venv ## Four emulated hosts from nothing, converged, serving a signed model
	@$(SUDO) $(BIN)/hedgerow demo --inventory $(INVENTORY)

.PHONY: test
test: SOME := --at-most 5
test: lint test-unit test-roles test-site ## Everything that gates a change, within an hour on two cores

.PHONY: test-nightly
test-nightly: lint test-unit ## The same with every role's scenario, lock upgrades and the virtual machine
	@$(MAKE) test-roles ROLES="$$($(BIN)/python tools/changed_roles.py --all | xargs)"
	@HEDGEROW_SITE_TESTS=fleet $(MAKE) test-site
	@$(MAKE) test-upgrade test-rollout test-identity test-lifecycle test-pytorch test-vm

.PHONY: test-fast
test-fast: dev ## The inner loop: linters that are quick, tests without emulated hosts
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pytest -q -n 2 --dist worksteal -m "$(FAST)"

.PHONY: lint
lint: dev ## ruff, mypy strict, ansible-lint production, yamllint, shellcheck, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck $$(git ls-files '*.sh' .ci/run)
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/ansible-lint --offline --strict
	$(BIN)/python tools/role_readmes.py --check
	$(BIN)/python tools/protocol.py --check

.PHONY: test-unit
test-unit: dev detector ## Unit, policy, conformance and fault tests that need no emulated host
	@$(BIN)/hedgerow model import smollm2 >/dev/null # seconds; without it the tests of the real model would be skipped
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not fleet"

.PHONY: detector
detector: dev ## The wheel that carries the real detector of the cameras' tests, 76 MB, into var/cache
	@ls var/cache/wheels/ddddocr-*.whl >/dev/null 2>&1 || \
		$(BIN)/pip download -q --no-deps --require-hashes -r requirements/detector.txt -d var/cache/wheels

.PHONY: test-roles
test-roles: dev ## Molecule: check, converge, idempotence, verify, changed input of each changed role (ROLES="hat base")
	@roles="$(or $(ROLES),$$($(BIN)/python tools/changed_roles.py $(SOME) | xargs))"; \
	if [ -z "$$roles" ]; then echo "no role's scenario is called for"; exit 0; fi; \
	$(MOLECULE) test --shared-state $$(printf -- '-s %s ' $$roles)

.PHONY: test-upgrade
test-upgrade: dev ## Molecule: version lock → next → rollback on emulated hosts
	@$(MOLECULE) test -s upgrade

.PHONY: test-rollout
test-rollout: dev ## Molecule: releases on eight emulated Pis of two sites, as they go well and wrong
	@$(MOLECULE) test -s rollout

.PHONY: test-identity
test-identity: dev ## Molecule: certificates of an emulated fleet exchanged, stolen, cloned, broken, out of time
	@$(MOLECULE) test -s identity

.PHONY: test-lifecycle
test-lifecycle: dev ## Boards adopted, exchanged and decommissioned, on a fleet of their own
	@$(SUDO) HEDGEROW_TEST_LIFECYCLE=1 $(BIN)/pytest -q tests/fleet/test_lifecycle.py

.PHONY: test-pytorch
test-pytorch: dev ## PyTorch's container, built and used for real (first time minutes and 2 GB more)
	@$(SUDO) HEDGEROW_TEST_PYTORCH=1 $(BIN)/pytest -q tests/unit/models/test_pytorch.py

.PHONY: hil
hil: dev ## The host tests on real boards: INVENTORY=inventory/mine HOSTS=pi-1,pi-2
	@$(BIN)/hedgerow inventory check -i $(INVENTORY)
	HEDGEROW_TEST_INVENTORY=$(INVENTORY) HEDGEROW_TEST_HOSTS=$(HOSTS) $(BIN)/pytest -m fleet tests/host

.PHONY: test-site
test-site: dev ## Molecule: create, check, converge, idempotence, verify of the whole site
	@$(MOLECULE) test -s site

.PHONY: test-vm
test-vm: ## Molecule: the site on an arm64 virtual machine with its own kernel (first time 10 minutes more)
	@tools/bootstrap.sh dev vm
	@$(MOLECULE) test -s vm

.PHONY: prove-slice
prove-slice: dev ## Figures, faults and bad inputs of the whole path in one table
	@$(SUDO) $(BIN)/python -m bench.prove_slice

.PHONY: prove-hardware
prove-hardware: dev ## Every claim about boards and their stack in one table: bar, measured, ok or short
	@$(SUDO) $(BIN)/python -m bench.prove_hardware

.PHONY: prove-rollout
prove-rollout: dev ## Every claim about rolling updates in one table: bar, measured, ok or short
	@$(SUDO) $(BIN)/python -m bench.prove_rollout

.PHONY: prove-server
prove-server: dev detector ## Every claim about the inference server in one table: bar, measured, ok or short
	@$(BIN)/hedgerow model import smollm2 >/dev/null
	@$(BIN)/python -m bench.prove_server

.PHONY: prove-registry
prove-registry: dev ## Every claim about models and the signed registry in one table: bar, measured, ok or short
	@$(BIN)/python -m bench.prove_registry

.PHONY: prove-identity
prove-identity: dev ## Every claim about identity, audit, backups and secrets in one table: bar, measured, ok or short
	@$(BIN)/python -m bench.prove_identity

.PHONY: docs
docs: dev ## Role READMEs, gRPC's descriptors and types from their sources
	$(BIN)/python tools/role_readmes.py
	$(BIN)/python tools/protocol.py

.PHONY: lock
lock: dev ## Rewrite requirements/*.txt
	requirements/lock.sh

.PHONY: clean
clean: ## Stop the emulated hosts and remove everything that was made here
	@if [ -x $(BIN)/hedgerow ]; then $(SUDO) $(BIN)/hedgerow emulate down --all --purge-images; fi
	@$(SUDO) rm -rf var .venv dist .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} + ; find src -name '*.egg-info' -prune -exec rm -rf {} +
