# make train       set up, train an agent, evaluate it, film it and draw its curve;
#                  GAME=breakout, ARGS="--seed 2" (options of ppo37 train), RUN=directory
# make check       set up, format, lint, types, and the tests that need no emulator
# make test        set up, format, lint, types, and all tests that are not slow
# make test-slow   the tests that take longer, `make mutants` among them
# make test-extras install every extra in .venv-extras, and run the tests that need them; and
#                  compare the statistics of `ppo37 compare` with rliable, in .venv-rliable
# make mutants     take every detail of PPO out, one at a time, and see its tests fail;
#                  DETAILS="D05 A1" for some
# make dist        build the wheel and the source archive, and try both
# make docs        build the documentation site in site/; needs npm for the equations
# make test-web    build it, and open every page in headless Chromium
PYTHON ?= python3
GAME ?= pong
ARGS ?=
DETAILS ?=
RUN ?= runs/$(subst /,-,$(GAME))-$(shell date +%Y%m%d-%H%M%S)
RUN := $(RUN)
BIN := .venv/bin
KATEX := build/katex/katex-0.19.1.tgz
# Tests without an emulator, a run or a process of their own.
QUICK := tests/unit/algorithm tests/unit/networks/test_agent.py tests/unit/tools/test_stats.py \
  tests/system/test_house.py tests/web/test_pages.py

# Tests of parts that an extra or a package of others brings.
EXTRAS_BIN := .venv-extras/bin
WITH_EXTRAS := tests/system/test_extras.py tests/system/test_ray.py tests/system/test_how_to.py \
  tests/unit/envs/test_gymnasium.py tests/unit/envs/test_reference_peers.py

.PHONY: train check test test-slow test-extras test-rliable mutants lint bench docs test-web dist clean

train: .venv/.installed
	$(BIN)/ppo37 train "$(GAME)" --out "$(RUN)" $(ARGS)
	$(BIN)/ppo37 eval "$(RUN)"
	$(BIN)/ppo37 record "$(RUN)"
	@# A very short run may have no finished game to draw.
	-$(BIN)/ppo37 plot "$(RUN)"

check: lint
	$(BIN)/python -m pytest -q $(QUICK)

# One worker for each core: most tests wait for processes that they start.
test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow

# minatar is no extra: it is an example of environments that others have written.
test-extras: .venv-extras/.installed test-rliable
	EXTRAS=1 $(EXTRAS_BIN)/python -m pytest -n auto $(WITH_EXTRAS)
	$(EXTRAS_BIN)/python -m pytest -n auto -m slow -k notebook tests/unit/course/test_charts.py

# rliable has an environment of its own: it cannot be imported with the pandas that others need.
test-rliable: .venv-rliable/.installed
	.venv-rliable/bin/python benchmarks/rliable_numbers.py tests/data/rliable.json --check

mutants: .venv/.installed-test
	PYTHONPATH=src:tests $(BIN)/python -m mutants $(DETAILS)

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/.installed
	$(BIN)/ppo37 bench

# The wheel holds the package and nothing else, and trains in a new environment and an empty
# directory. The source archive passes the quick tests.
dist: .venv/.installed-dist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	set -eu; trial=$$(mktemp -d); trap 'rm -rf "$$trial"' EXIT; \
	  $(PYTHON) -m venv "$$trial/venv"; \
	  "$$trial/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt dist/*.whl; \
	  diff -r --exclude=__pycache__ src/ppo37 "$$trial"/venv/lib/python*/site-packages/ppo37; \
	  mkdir "$$trial/sdist"; tar -xzf dist/*.tar.gz -C "$$trial/sdist" --strip-components=1; \
	  python=$(abspath $(BIN))/python; cd "$$trial"; \
	  venv/bin/ppo37 --version; venv/bin/ppo37 train catch --preset debug; \
	  cd sdist; PYTHONPATH=src "$$python" -m pytest -q $(QUICK)

docs: .venv/.installed-docs $(KATEX)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-web: docs .venv/.installed-test
	$(BIN)/python -m pytest -m web tests/web

$(KATEX):
	mkdir -p $(@D)
	npm pack --silent --pack-destination $(@D) $(subst -,@,$(basename $(@F)))
	tar -xzf $@ -C $(@D)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ppo37 needs Python 3.11 or newer; name one by PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv/.installed-dist: .venv/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dist]'
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

.venv-extras/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-extras
	$(EXTRAS_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[test,mujoco,learn,onnx,ray,bench,dist,docs]' minatar
	touch $@

.venv-rliable/.installed: Makefile
	$(PYTHON) -m venv .venv-rliable
	.venv-rliable/bin/python -m pip install --quiet --disable-pip-version-check \
	  'rliable==1.2.0' 'pandas<3'
	touch $@

clean:
	rm -rf .venv .venv-extras .venv-rliable build dist site
