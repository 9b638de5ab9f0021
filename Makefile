# Two commands matter: `make book` and `make test`. Both make .venv by themselves.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 book` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
MINIMUM = .venv-minimum/bin
PORT ?= 8000
ONLY ?=
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
# What XLA has compiled once, in a test, a page or a script, is read from here the next time.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.1
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

book: .venv/ready  ## build the book from the committed notebooks
	@$(BIN)/python scripts/notebooks.py --check || test $$? -eq 1
	@rm -rf _build
	@echo "Building the book"
	@$(BIN)/jupyter-book build . -q -W --keep-going -n
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: book  ## build the book, then run all tests and all notebooks
	@echo "Running the tests, then the notebooks"
	@JAX_PLATFORMS=cpu; export JAX_PLATFORMS; failed=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile || failed=1; \
	$(BIN)/python scripts/check_pages.py || failed=1; \
	exit $$failed

notebooks: .venv/ready  ## execute the pages and write the notebooks (ONLY=book/index.md: one)
	@$(BIN)/python scripts/notebooks.py $(ONLY)
	@$(BIN)/python scripts/back_matter.py

serve: book  ## build the book and show it at localhost:8000 (PORT=...)
	@echo "The book: http://localhost:$(PORT)/ (Ctrl-C ends)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

reproduce: .venv/ready  ## make the full-size records that are missing (hours; can be interrupted)
	@$(BIN)/python scripts/reproduce.py

bench: .venv/ready  ## time training beside plain versions of the published loops
	@$(BIN)/python benchmarks/one_layer.py
	@$(BIN)/python benchmarks/deep.py
	@$(BIN)/python benchmarks/sine.py
	@$(BIN)/python benchmarks/causal.py
	@$(BIN)/python benchmarks/autoregressive.py
	@$(BIN)/python benchmarks/induction.py

device: .venv/ready  ## pages and tests on the device that JAX finds (ARGS="--jobs 8 --limit 600")
	@$(BIN)/python scripts/device.py $(ARGS)

mutants: .venv/ready  ## change the package, one sign or index at a time, and see the tests fail
	@$(BIN)/python scripts/mutants.py

test-minimum: .venv-minimum/ready  ## the tests of the package and the notebooks at minimum versions
	@JAX_PLATFORMS=cpu; export JAX_PLATFORMS; failed=0; \
	$(MINIMUM)/python -m pytest -n 2 --dist loadfile -m "not site" || failed=1; \
	$(MINIMUM)/python scripts/check_pages.py || failed=1; \
	exit $$failed

clean:  ## remove the built book, the environments and the caches
	rm -rf _build .cache .venv .venv-minimum .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# A stamp is written last: an interrupted installation starts again.
.venv/installed: requirements.txt
	@$(call new_environment,.venv)
	@echo "Installing the pinned packages into .venv (once, a few minutes)"
	@$(BIN)/python -m pip install -qq -r requirements.txt
	@touch $@

.venv/ready: .venv/installed pyproject.toml
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

.venv-minimum/ready: requirements.txt pyproject.toml scripts/minimum.py
	@$(call new_environment,.venv-minimum)
	@echo "Installing the minimum versions into .venv-minimum (once, a minute or two)"
	@$(MINIMUM)/python scripts/minimum.py > .venv-minimum/constraints.txt
	@$(MINIMUM)/python -m pip install -qq -c .venv-minimum/constraints.txt -e '.[test]'
	@touch $@

define new_environment
if ! $(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo "Python 3.11 or newer is needed; found: $$($(or $(PYTHON),python3) --version 2>&1 | head -1)." >&2; \
	echo "Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; fi; \
echo "Making $(1) with $$($(PYTHON) --version)"; \
rm -rf $(1) && $(PYTHON) -m venv $(1)
endef

.PHONY: help book test notebooks serve reproduce bench device mutants test-minimum clean
