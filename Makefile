# Each target works from a fresh clone, on a machine with python3 (3.11 or newer), make and git; a
# second run repeats no work.

PYTHON ?= python3
BIN := .venv/bin
REHEARSAL := .rehearsal

MAKEFLAGS += --jobs=3 # environments are made at the same time
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Most packages are imported only in part.
export PIP_NO_COMPILE := 1
INSTALL = pip install --quiet --require-hashes --requirement
# uv installs in seconds what takes pip minutes. Of pip's configuration it is told the index, such
# as a company's mirror. If it fails all the same, pip installs.
export UV_CACHE_DIR := $(CURDIR)/$(REHEARSAL)/cache
install = index=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}; \
	UV_DEFAULT_INDEX=$${index:-$${UV_DEFAULT_INDEX:-https://pypi.org/simple}} \
		$(BIN)/uv $(INSTALL) $(2) --python $(1) || \
	{ echo "uv failed: pip installs the same, which takes longer" >&2; \
	  $(BIN)/python -m pip --python $(1) $(INSTALL:pip=) $(2); }

.DEFAULT_GOAL := help
.PHONY: help template validate explain test fuzz style docs demo conformance bench sbom vulnerabilities lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

template: .venv/project  ## render templates/*.yaml and validate them
	$(BIN)/python -m generator render
	$(BIN)/python -m generator validate

validate: .venv/project  ## validate the templates, or any other: TEMPLATE=path
	$(BIN)/python -m generator validate $(if $(TEMPLATE),"$(TEMPLATE)")

explain: .venv/project  ## explain who can decrypt, as text and a page: TEMPLATE=path
	@mkdir -p build
	@$(BIN)/python -m generator explain --format html $(if $(TEMPLATE),"$(TEMPLATE)") \
		> build/explain.html 2> /dev/null || test -s build/explain.html || rm build/explain.html
	$(BIN)/python -m generator explain $(if $(TEMPLATE),"$(TEMPLATE)"); status=$$?; \
		test ! -e build/explain.html || echo "wrote build/explain.html"; exit $$status

test: style $(REHEARSAL)/venv $(REHEARSAL)/wheels $(REHEARSAL)/node_modules  ## run every test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder

fuzz: .venv/development  ## test with random policies, artifacts and requests: SEED=n
	PYTHONPATH=encryption $(BIN)/python -m tests.decryptor.test_mutations $(if $(SEED),--seed "$(SEED)")
	PYTHONPATH=encryption $(BIN)/python -m tests.server.fuzz $(if $(SEED),--seed "$(SEED)")
	$(BIN)/python -m tests.policy.test_differential $(if $(SEED),--seed "$(SEED)")

style: .venv/development  ## check lint rules, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/project  ## update the generated parts of docs/
	$(BIN)/python -m tools.documentation

demo: .venv/development $(REHEARSAL)/venv $(REHEARSAL)/wheels  ## an artifact from source to enclave, on an AWS emulator
	$(BIN)/python -m rehearsal.demo

conformance: .venv/project  ## the same on AWS: OWNER_PROFILE=… HOST_PROFILE=… OPTIONS=…
	$(BIN)/python -m conformance --owner-profile "$(OWNER_PROFILE)" --host-profile "$(HOST_PROFILE)" $(OPTIONS)

bench: .venv/development  ## compare speed and memory with the alternatives
	$(BIN)/python -m benchmarks

sbom: .venv/development  ## list what builds and enclaves install: build/sbom.json
	$(BIN)/python -m tools.sbom

vulnerabilities: $(REHEARSAL)/pip-audit  ## check every lock file against PyPI's advisories, online
	status=0; for lock in requirements/*.txt; do \
		echo "$$lock"; $</bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement "$$lock" || status=1; \
	done; exit $$status

lock: .venv/development  ## update requirements/*.txt
	$(BIN)/python -m tools.lock

clean:  ## remove everything that the other targets made
	rm -rf .venv $(REHEARSAL) build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# Environments. A stamp is updated when its lock file is newer.

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/project: requirements/project.txt requirements/packaging.txt pyproject.toml | .venv/bin/python
	@echo "installing $$(grep -c == requirements/project.txt) packages into .venv/, once"
	$(BIN)/python -m $(INSTALL) requirements/packaging.txt
	@$(call install,$(BIN)/python,$<)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation \
		--config-settings editable_mode=compat --editable . # no finder at every start of Python
	touch $@

.venv/development: requirements/development.txt .venv/project
	@echo "installing $$(grep -c == requirements/development.txt) packages for tests into .venv/, once"
	@$(call install,$(BIN)/python,$<)
	touch $@

$(REHEARSAL)/venv: requirements/rehearsal.txt | .venv/project
	rm -rf $@
	$(PYTHON) -m venv --without-pip $@ || { rm -rf $@; exit 1; }
	@$(call install,$@/bin/python,$<)
	touch $@

# Its packages would otherwise decide with which versions the project is tested.
$(REHEARSAL)/pip-audit: requirements/vulnerabilities.txt
	rm -rf $@
	$(PYTHON) -m venv $@ || { rm -rf $@; exit 1; }
	$@/bin/python -m $(INSTALL) $<
	touch $@

# The Python of a rehearsed build: pip, and nothing else that could leak into it.
$(REHEARSAL)/python:
	$(PYTHON) -m venv $@ || { rm -rf $@; exit 1; }

$(REHEARSAL)/wheels: requirements/rehearsed-build.txt | $(REHEARSAL)/python
	rm -rf $@
	$(REHEARSAL)/python/bin/python -m pip download --quiet --only-binary :all: --require-hashes --requirement $< --dest $@
	touch $@

# The second policy evaluator that ours is compared with; without npm its tests are skipped.
$(REHEARSAL)/node_modules: tests/policy/package-lock.json
	mkdir -p $(REHEARSAL)
	cp tests/policy/package.json tests/policy/package-lock.json $(REHEARSAL)
	! command -v npm >/dev/null || npm ci --prefix $(REHEARSAL) --ignore-scripts --no-audit --no-fund --silent || \
		echo "npm ci failed, is its registry reachable? Tests that need the second evaluator are skipped" >&2
	mkdir -p $@
	touch $@
