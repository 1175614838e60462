# One command each; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 4
# What is installed is what the lock file and the package's own metadata say.
STAMP := $(VENV)/.installed

.PHONY: help demo test coverage bench measure soak chaos explain profile fuzz catalogs check format generate lock release build clean
.DEFAULT_GOAL := help

help: ## List the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1	/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## A whole sync on this machine: simulator (or STRIPE_API_KEY), engine, service, Postgres
	$(BIN)/python -m tests.demo

test: $(STAMP) ## The whole test suite, several tests at a time: most of them wait more than they compute
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal

coverage: $(STAMP) ## Which lines the test suite runs, in its processes and in those it starts; takes longer than test
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest -n $(TEST_PROCESSES) --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(STAMP) ## Whole syncs beside a bare script and dlt, and what gRPC and the service add to them
	$(BIN)/python -m tests.benchmarks.layers
	$(BIN)/python -m tests.benchmarks.sync_speed

measure: $(STAMP) ## Benchmarks of parts: reading Stripe, many syncs at once, memory, many pipelines, webhooks
	$(BIN)/python -m tests.benchmarks.progress
	$(BIN)/python -m tests.benchmarks.concurrent_syncs
	$(BIN)/python -m tests.benchmarks.memory
	$(BIN)/python -m tests.benchmarks.stripe_requests
	$(BIN)/python -m tests.benchmarks.stripe_rate
	$(BIN)/python -m tests.benchmarks.small_calls
	$(BIN)/python -m tests.benchmarks.service_scale
	$(BIN)/python -m tests.benchmarks.service_load
	$(BIN)/python -m tests.benchmarks.overload
	$(BIN)/python -m tests.benchmarks.hostile_deliveries
	$(BIN)/python -m tests.benchmarks.continuous_pipelines
	$(BIN)/python -m tests.benchmarks.webhook_freshness
	$(BIN)/python -m tests.benchmarks.events_meanwhile

soak: $(STAMP) ## Follow an account that changes 50 times a second for a minute, while engines are killed
	SOAK_SECONDS=60 $(BIN)/pytest tests/soak/test_soak.py

chaos: $(STAMP) ## Let 20 pipelines run for three minutes, while servers are killed and stand still
	CHAOS_SECONDS=180 $(BIN)/pytest -s tests/soak/test_chaos.py

fuzz: $(STAMP) ## Send both servers made-up input for FUZZ_SECONDS, an hour by default, and look that each answer is clean
	GRPC_VERBOSITY=NONE $(BIN)/python -m tests.fuzz

explain: $(STAMP) ## Look how Postgres would run each query of the service over 5,000 pipelines with 1,000 runs each
	STORED_ROWS=5000000 $(BIN)/pytest --timeout 1800 tests/service_server/store/test_queries.py

profile: $(STAMP) ## Where the engine's processor time goes in a whole sync, by function
	$(BIN)/python -m tests.benchmarks.hot_path

catalogs: $(STAMP) ## Load the catalog of every allowed version of the stripe package, and compare them
	$(BIN)/python -m tests.catalogs.compare

check: $(STAMP) ## Format, lint, types, import rules, generated code, contract, prose
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py --check
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf breaking --against proto/released.binpb
	$(BIN)/python -m tests.prose

format: $(STAMP) ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write proto

generate: $(STAMP) ## Make clients/pipesync from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

lock: $(STAMP) ## Pin every dependency anew in requirements.lock
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--all-extras --group dev --custom-compile-command "make lock" --upgrade pyproject.toml -o requirements.lock

release: check build ## Build what is released, and hold later versions to its contract and beside it
	$(BIN)/buf build --exclude-source-info -o proto/released.binpb
	rm -f tests/released/*.whl
	$(BIN)/hatchling build -t wheel -d tests/released

build: $(STAMP) ## The wheel and the source distribution, in dist/
	$(BIN)/hatchling build

clean: ## Remove what the commands above made
	rm -rf $(VENV) .coverage* .bench .catalogs dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis fuzz-findings
