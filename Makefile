# Everything installs itself into .venv; a fresh machine needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check lint docs trials performance scoreboard clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## a real grid on simulated models: no key, no network
	$(BIN)/python run_benchmark.py --run-id demo --data sample --models sim/strong --seeds 1 2 --max-concurrent 2 \
		--demo-datasets gsm8k hotpot_300 medhallu --yes

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

check: lint test

docs: install  ## the README's table of parameters, from the command; docs/optimizers.md, from its sections
	$(BIN)/python -m tests.test_readme
	$(BIN)/python tests/performance/scoreboard.py --assemble

trials: install  ## the long trials
	$(BIN)/python -m pytest -m trial

performance: install  ## measures, asserts nothing
	$(BIN)/python tests/performance/startup.py
	$(BIN)/python tests/performance/large_plans.py

scoreboard: install  ## every optimizer on the simulated models, into docs/optimizers.md; resumes where it was stopped
	$(BIN)/python tests/performance/scoreboard.py --write

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
