# The one task runner. Each target sets up what it needs; nothing is installed outside the checkout but Chromium for tests.
.PHONY: help drill catalogue test soak check bench setup setup-test

SEEDS ?= 10
SEED ?= 1
PY := .venv/bin/python
.DEFAULT_GOAL := help

include fleet/environments/kind/offline/kind.mk fleet/environments/kind/kind.mk

help:                ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup:
	@scripts/setup.sh drill

setup-test:
	@scripts/setup.sh test

drill: setup         ## run the drill cluster-loss in the local environment
	@.venv/bin/blackstart run cluster-loss

test: check          ## all tests except the long ones and those that need Docker
	$(PY) -m pytest -m "not soak" -q

soak: setup-test     ## the long ones: ten seeds of cluster-loss, 204 calibration cases, 80 kills -9
	SEEDS=$(SEEDS) $(PY) -m pytest -m soak -v --timeout=600

catalogue: setup     ## every drill on a fleet that is ready for it and on one that is not (SEED=1)
	@$(PY) -m scripts.catalogue --seed $(SEED)

check: setup-test    ## types and lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup-test    ## every benchmark; each prints its figure and the bar beside it
	@for b in benchmarks/*.py; do echo "== $$b"; $(PY) $$b || exit 1; done

golden: setup-test   ## what the golden run's records make now; read the difference before you commit it
	$(PY) tests/reports/golden.py
