# The one way to set up, try, check, test and measure. `make demo` and `make test` need Python 3.11 or later, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK ?= requirements.lock
OLDEST := $(addprefix tests/,augment callbacks compress data engine export interface loggers losses metrics models optim \
  regularizers reports runs tasks)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup demo test test-slow test-oldest soak check format bench lock clean

setup: $(STAMP)

# the lock file decides whether the environment is current; no network is needed where it is
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"imgrec needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}") if not (3, 11) <= v[:2] < (3, 14) else None'
	@sum=$$(cat $(LOCK) | cksum); \
	if [ -x $(BIN)/python ] && [ "$$(cat $(VENV)/.lock-sum 2>/dev/null)" = "$$sum" ]; then \
	  echo "the environment in $(VENV) is current"; \
	else \
	  echo "setting up $(VENV) from $(LOCK) (some 6 GB, minutes)"; \
	  rm -f $(VENV)/.lock-sum; \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK) && \
	  echo "$$sum" > $(VENV)/.lock-sum; \
	fi
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup
	$(BIN)/imgrec fit --config experiments/digits/quickstart.yaml

# one thread a process: two processes with two threads each spend most of their time waiting for one another
test test-slow test-oldest soak: export OMP_NUM_THREADS = 1

test: setup
	$(BIN)/python -m pytest -m "not slow and not soak" -n 2 --dist loadgroup $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not forks" -n 2 --dist loadgroup $(ARGS)
	$(BIN)/python -m pytest -m "slow and forks" tests/soak tests/callbacks $(ARGS)

# the fast tests of the packages that call other libraries, with the lowest versions that pyproject.toml accepts
test-oldest:
	$(MAKE) setup VENV=.venv-oldest LOCK=requirements-oldest.lock
	.venv-oldest/bin/python -m pytest -m "not slow and not soak" -n 2 --dist loadgroup $(OLDEST) $(ARGS)

# a hundred kills, each resumed: `make soak ARGS="-k workers"` for some
soak: setup
	$(BIN)/python -m pytest -m soak tests/soak $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python benchmarks/run_all.py $(ARGS)

# pin the versions and hashes for every platform and Python that pyproject.toml accepts: the newest ones, and the lowest
# direct dependencies for test-oldest. Requires uv.
PIN := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
  --extra dev pyproject.toml
lock:
	$(PIN) -o requirements.lock --upgrade
	$(PIN) -o requirements-oldest.lock --upgrade --resolution lowest-direct

clean:
	rm -rf $(VENV) .venv-oldest .mypy_cache .ruff_cache .pytest_cache
