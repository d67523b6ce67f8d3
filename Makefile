# `make quickstart` runs the main job, `make test` the tests; each first builds .venv from the lock.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint install clean

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

install: .venv/.installed

# glibc gives large tensors back to the kernel at every step and fetches them zeroed again; kept, a step takes a quarter less.
quickstart: export MALLOC_MMAP_THRESHOLD_ = 4294967296
quickstart: export MALLOC_TRIM_THRESHOLD_ = 8589934592
quickstart: install
	$(BIN)/rl-probes quickstart --folder runs/quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 4

clean:
	rm -rf .venv runs build *.egg-info
