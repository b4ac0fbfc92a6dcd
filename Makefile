# Everything runs in a virtual environment of its own, .venv; python3 and make are all it takes.

PYTHON ?= python3
ARGS ?=
# Two workers, one thread each: most of the time goes into starting nnU-Net's commands, not into computing.
# Commands of nnU-Net take a thread for each core all the same: those that wait must not spin.
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python -m
TEST_ENV := $(VENV)/.installed-test
DEV_ENV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format clean distclean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(TEST_ENV)  ## a small semi-supervised training from start to end, in demo/
	$(VENV)/bin/nnUNetv2_ssl demo -o demo

test: $(TEST_ENV)  ## run the tests; ARGS="-m 'not slow'" passes options to pytest
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(DEV_ENV)  ## check format and style
	$(RUN) ruff format --check
	$(RUN) ruff check

types: $(DEV_ENV)  ## check types
	$(RUN) mypy

format: $(DEV_ENV)  ## format the code and repair what ruff can
	$(RUN) ruff format
	$(RUN) ruff check --fix

clean:  ## remove what was built or cached, and demo/
	rm -rf build dist *.egg-info demo .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## also remove the virtual environment
	rm -rf $(VENV)

# The stamps lie in the environment, so they go when it goes. They are made anew when the build files change.
$(VENV)/.installed-%: pyproject.toml setup.py nnunet_ssl.pth
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet -e '.[$*]'
	@touch $@
