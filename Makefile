PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test types tests slow docs
# quantizes the bundled model (no network, no data) and measures it on its held-out digits
demo: .venv/installed
	$(BIN)/intraq quantize resnet20_digits --w 4 --a 4 --recipe fast --out resnet20_digits-w4a4 --force
	$(BIN)/intraq evaluate resnet20_digits-w4a4 --data digits

test: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) --jobs=3 types docs tests

types: .venv/installed-dev
	$(BIN)/mypy

tests: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder

# those that take seconds each; not part of test
slow: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m slow

# the pages as a site; a warning is an error
docs: .venv/installed-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --fresh-env docs docs/_build

.venv/installed: pyproject.toml
	$(PYTHON) -m venv --upgrade-deps .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

# in one go, as a second installation resolves and builds all again, by a new pip, which is a third faster than that of
# Python 3.11; bytecode on all cores, where pip takes one
.venv/installed-dev: pyproject.toml
	$(PYTHON) -m venv --upgrade-deps .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 -x '/(tests|testing|mypy|pip|setuptools)/' .venv/lib
	touch .venv/installed $@
