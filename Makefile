# Two commands do everything from nothing, in an environment inside the checkout:
#
#   make demo               synthesise words, train, evaluate, export, recognise      (under 10 minutes)
#   make demo DATA=folder   the same on your own recordings: a folder a word
#   make test               check style, run all tests, print the coverage

PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/demo.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" DATA="$(DATA)" sh examples/demo.sh

test: $(VENV)/test.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "speech_gru needs Python 3.10 to 3.13; none was found on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[train,synth]"
	@touch $@

$(VENV)/test.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[train,synth,dev,onnx,micro]"
	@touch $@

clean:
	rm -rf $(VENV) demo/corpus demo/shards demo/run
