PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     ?= $(shell command -v uv)
# uv, where there is one, resolves in two seconds what takes pip most of a minute; both take the versions of constraints.txt.
ADD    := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install)

.PHONY: demo test check docs install lock clean

## demo: install into .venv and run the quick start
demo: install
	@echo "Digits first:   $(BIN)/python fedinverse_sim.py"
	@echo "Faces, longer:  $(BIN)/python fedinverse_sim.py faces"
	$(BIN)/python fedinverse_sim.py --resume
	@echo "Now the faces:  $(BIN)/python fedinverse_sim.py faces"

## test: install into .venv and run every check and test, on up to four cores
test: install check
	$(BIN)/pytest -n auto --maxprocesses 4

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/installed

# constraints.txt: the versions that were tested, so that a year from now the same is installed. `make lock` renews it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(UV),,$(BIN)/python -m pip install --quiet --upgrade pip)
	$(ADD) --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

## docs: build the site into site/
docs: install
	$(BIN)/mkdocs build --strict

## lock: resolve the dependencies anew and write constraints.txt; run the tests before committing it
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --editable ".[dev]"
	echo '# The versions that were tested: make installs them; the ranges in pyproject.toml stay open.' > constraints.txt
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable >> constraints.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) runs build *.egg-info
