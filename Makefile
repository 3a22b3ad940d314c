# Headrace: everything a developer or a newcomer does, by name.
PYTHON ?= python3
PY := .venv/bin/python
EXAMPLE ?= shop
LOCK := uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	--generate-hashes --no-header --quiet
# Every extra but torch, whose wheels for Linux bring 5 GB of CUDA: make torch installs it.
EXTRAS := --extra kafka --extra debezium --extra otel --extra postgres --extra redis --extra s3 --extra databases

.PHONY: demo demo-kafka torch test soak check format lock bench bench-events bench-serving bench-tables docs bench-features clean
demo: .venv/.ready ## an example, end to end, in a scratch folder: make demo EXAMPLE=shop
	@.venv/bin/headrace demo $(EXAMPLE)

demo-kafka: .venv/.ready ## the same with its events on a real broker, which is started for it
	@.venv/bin/python -m services kafka -- .venv/bin/headrace demo $(EXAMPLE) --profile kafka

torch: .venv/.ready ## the extra torch: 5 GB with CUDA; without it its tests are skipped
	@PATH="$$PATH:$(CURDIR)/.venv/bin" uv pip install --quiet --python $(PY) -r requirements/torch.txt

test: .venv/.ready ## the tests but those of soak; two processes share their files, the longest first
	@.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: .venv/.ready ## what takes minutes: hundreds of faults on each log, thousands of commits
	@.venv/bin/pytest -m soak

check: .venv/.ready ## style, types, import rules, what an import loads, the house's measures
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/pytest tests/test_house.py tests/cli/test_main.py -k "loads_no or load_no or test_house"

format: .venv/.ready ## writes the style
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

# The environment, from the lock. uv is taken from the PATH, else installed into the environment.
.venv/.ready: requirements/dev.txt pyproject.toml
	@services/environment $(PYTHON)
	@touch $@

lock: ## the lock, anew
	$(LOCK) pyproject.toml $(EXTRAS) -o requirements/headrace.txt
	$(LOCK) pyproject.toml $(EXTRAS) --group dev -c requirements/headrace.txt -o requirements/dev.txt
	sed -n 's/^torch = \["\(.*\)"\]/\1/p' pyproject.toml | $(LOCK) - -c requirements/headrace.txt -o requirements/torch.txt

bench: .venv/.ready ## every benchmark, in one run
	@.venv/bin/python bench/all.py $(BENCH)

bench-events: .venv/.ready ## ingest and the collector beside their peers, and what duplicates cost
	@.venv/bin/python bench/all.py events broker latency collector identities

bench-features: .venv/.ready ## features beside their peers: joins, windows, online reads, a training set beyond memory
	@.venv/bin/python bench/all.py point_in_time feast_join windows online larger_than_memory stream

bench-serving: .venv/.ready ## the predict endpoint beside bare uvicorn, MLflow and Feast, and steady beside releases
	@.venv/bin/python bench/all.py serving serving_limits serving_peers steady

bench-tables: .venv/.ready ## tables beside the same SQL in DuckDB, 100M rows within 4 GiB, publishing beside COPY
	@.venv/bin/python bench/all.py tables large_table warehouse

docs: .venv/.ready ## the documentation as a site, in the folder site
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

clean: ## takes away what was built here
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist site
