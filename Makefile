# `make` alone lists what there is. V names the environment, ARGS is handed on: make tour ARGS="--help"
V ?= .venv
ARGS ?=
B := $(V)/bin
export PATH := $(abspath $(B)):$(PATH)
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help tour explore test test-slow docs export readme bench clean runtime dev

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "The first call makes the environment $(V); on Linux that downloads about 3 GB unless torch is already installed."

tour: runtime  ## the library in one run: train, explain, evaluate, a page to open
	@whitebox tour $(ARGS)

explore:  ## look at maps in the browser (needs JupyterLab, which this installs)
	@sh tools/venv.sh $(V) explore
	@whitebox explore $(ARGS)

test: dev  ## every notebook and every law, two at a time
	@python -m pytest -n 2 --maxschedchunk 1 $(ARGS)

test-slow: dev  ## the slow proofs
	@python -m pytest -m slow $(ARGS)

docs: dev  ## the site, into _docs
	@python tools/docs.py $(ARGS)

export: dev  ## notebooks -> modules and README
	@nbdev-export
	@nbdev-clean
	@python tools/readme.py

readme: dev
	@python tools/readme.py

bench: dev  ## side by side with other packages
	@sh -ec 'for f in benchmarks/*.py; do echo "$$f"; python "$$f" $(ARGS); done'

clean:  ## remove what was built; the environment $(V) stays
	@rm -rf _docs _proc build dist *.egg-info .pytest_cache .hypothesis .ruff_cache nbs/nbdev.yml nbs/sidebar.yml
	@find . -name __pycache__ -not -path './$(V)/*' -prune -exec rm -rf {} +

runtime:
	@sh tools/venv.sh $(V) ""

dev:
	@sh tools/venv.sh $(V) dev
