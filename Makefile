PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check install clean

## demo: install into .venv and run the quick start (about four minutes on two cores)
demo: install
	$(BIN)/python fedinverse_sim.py --resume

## test: install into .venv and run every check and test, on up to four cores
test: install check
	$(BIN)/pytest -n auto --maxprocesses 4

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
