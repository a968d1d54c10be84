# `make demo` and `make test` set everything up first; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PYTHON_BIN = $(VENV)/bin/python
# Spark starts its Python workers by PYSPARK_PYTHON and Java by JAVA_HOME; the pyspark in .venv is a whole Spark, so no other SPARK_HOME.
RUN = env -u SPARK_HOME JAVA_HOME="$$(scripts/java-home)" PYSPARK_PYTHON="$(CURDIR)/$(PYTHON_BIN)" $(PYTHON_BIN)
ARGS ?=

.PHONY: help setup demo docs test failures chaos lint unit build sanitize fuzz fuzz-guided bench bench-tfos tfos-suite dist test-gpu test-oldest clean multihost

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## make .venv with everything in it (all targets below do this by themselves)
	@scripts/setup.sh

demo: setup ## handwritten digits: prepare, train on two nodes, infer (ARGS="--data DIR" for the 28x28 files)
	@$(RUN) examples/mnist/demo.py $(ARGS)

test: lint ## lint and the whole test suite
	$(RUN) -m pytest $(ARGS)

test-long: setup ## the tests that take half a minute and more each, which `make test` leaves out
	TFOS_LONG=1 $(RUN) -m pytest -m long $(ARGS)

failures: setup ## every row of docs/failures.md: real processes, real signals (about ten minutes)
	TFOS_ALL_FAILURES=1 $(RUN) -m pytest tests/failures $(ARGS)

chaos: setup ## feed tasks killed at random rows, every row compared (ROUNDS=1000)
	$(RUN) -m tests.failures.chaos --rounds $(or $(ROUNDS),1000) $(ARGS)

unit: setup ## only the tests that need no Spark: seconds
	$(RUN) -m pytest tests/unit $(ARGS)

multihost: setup ## executors in namespaces as separate hosts: remote feed, a cut link, a stranger (for root; skips with a reason)
	TFOS_MULTIHOST=1 $(RUN) -m pytest tests/multihost -rs $(ARGS)

# Where there is a GPU, TensorFlow comes with the CUDA libraries that it needs (gigabytes).
test-gpu: export EXTRAS = $(shell command -v nvidia-smi >/dev/null && echo test,gpu || echo test)
test-gpu: setup ## on a GPU node: pinned shared memory and copies to the device (skips with a reason elsewhere)
	$(RUN) -m pytest tests/gpu -rs $(ARGS)

lint: setup ## ruff, mypy, codespell and import-linter
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check --quiet .
	$(PYTHON_BIN) -m mypy
	$(PYTHON_BIN) -m codespell_lib
	$(VENV)/bin/lint-imports --no-logo --no-cache

docs: setup ## the site, in build/docs (a warning is an error)
	$(PYTHON_BIN) -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs

build: setup ## rebuild the compiled modules in place (TFOS_BUILD=debug|sanitize|coverage)
	$(PYTHON_BIN) setup.py build_ext --inplace --force

sanitize: setup ## the compiled modules under the address and undefined-behaviour sanitizers
	@scripts/sanitize.sh $(PYTHON_BIN) $(ARGS)

fuzz: setup ## mutated pickle streams against the decoder, under the sanitizers, and against the vetting (SECONDS=60 for each)
	@scripts/sanitize.sh $(PYTHON_BIN) --fuzz $(or $(SECONDS),60)
	$(PYTHON_BIN) -m tests.fuzz.values $(or $(SECONDS),60)

fuzz-guided: setup ## the same by libFuzzer, guided by what each stream reaches (SECONDS=600; installs clang and atheris)
	@scripts/fuzz-guided.sh $(PYTHON_BIN) $(or $(SECONDS),600)

bench: setup ## the benchmarks, each prints ratios and the machine
	@for program in pack channel remote feed; do echo "== $$program"; $(RUN) -m benchmarks $$program $(ARGS) || exit 1; done

bench-tfos: setup ## the feed's benchmarks with TensorFlowOnSpark beside us, in an environment of its own (.venv-tfos)
	@scripts/tfos-env.sh $(PYTHON_BIN)
	$(RUN) -m benchmarks feed --tfos .venv-tfos/bin/python $(ARGS)

tfos-suite: setup ## TensorFlowOnSpark's own tests and examples with our package of that name (TFOS_REPO=a checkout of it)
	$(RUN) scripts/tfos_suite.py "$(TFOS_REPO)" $(ARGS)
	TFOS_REPO="$(abspath $(TFOS_REPO))" $(RUN) -m pytest tests/spark/test_tfos_checkout.py -rs

dist: setup ## sdist and wheel in dist/
	$(PYTHON_BIN) -m build

test-oldest: VENV := .venv-oldest
test-oldest: ## the tests with the oldest supported Spark, TensorFlow and libraries (.venv-oldest)
	@VENV=$(VENV) CONSTRAINTS=scripts/oldest.txt scripts/setup.sh
	$(RUN) -m pytest tests/unit tests/spark $(ARGS)

clean: ## everything that was built or installed here
	rm -rf .venv .venv-oldest .venv-tfos build dist demo-output *.egg-info && find tfos_fast -name "*.so" -delete
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
