SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
# Half of the tests' time is waiting for servers, so two processes pay off on two cores; 0 runs in one. Threads of tiny
# models in several processes wait for each other more than they compute.
TEST_PROCESSES ?= 2
test: export OMP_NUM_THREADS ?= 1
# Without compiled modules every process of Ray and every worker compiles torch and its like anew.
unexport PYTHONDONTWRITEBYTECODE
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: help
help: ## show this list
	@grep -hE '^[a-zA-Z0-9_-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v uv >/dev/null 2>&1 || python3 -m pip install --quiet --root-user-action=ignore uv
	@test -x $(PY) || uv venv --quiet --python python3 $(VENV)
	uv pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## create .venv with everything (about half a minute)

.PHONY: demo
demo: install ## run the whole loop on this machine, in front of you (KEEP=1 leaves the cluster up)
	$(VENV)/bin/sluice demo $(if $(KEEP),--keep)

.PHONY: tools
tools: ## install Debian's prometheus and chromium, which some tests run, where root and apt-get are at hand
	@.ci/debian-tools

.PHONY: test
test: install tools ## run the tests, integration tests on a real API server, Ray and S3 included
	$(PY) -P -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

.PHONY: soak
soak: install ## run the long tests: many random kills, many tasks, many rollouts
	$(PY) -P -m pytest -q -m soak --timeout 3600 $(PYTEST_ARGS)

.PHONY: e2e
e2e: images tools ## play the scenarios on a Kubernetes node of this machine, images and all (root; KEEP=1 leaves it up)
	$(PY) -P e2e/support/build_tools.py
	SLUICE_E2E_KEEP=$(KEEP) $(PY) -P -m pytest -q e2e/scenarios e2e/node --timeout 1200 $(PYTEST_ARGS)

.PHONY: e2e-smoke
e2e-smoke: install ## start a bare node, run pods on it and take it down (root, programs built already: a minute)
	$(PY) -P -m pytest -q e2e/node/test_node.py -k "reaches_the_cluster or up_and_down_again" --timeout 600 $(PYTEST_ARGS)

.PHONY: check
check: install verify ## lint, format, types, import rules, generated files
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: bench-traces
bench-traces: install ## measure the data pipeline against its peers
	uv pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[bench]'
	$(PY) bench/traces/main.py

.PHONY: bench-eval
bench-eval: install ## measure the evaluator, and simulate its decisions
	$(PY) bench/eval/main.py

.PHONY: bench-train
bench-train: install ## measure the trainer against TRL, under Ray, and its checkpoints
	uv pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[bench]'
	HF_HUB_OFFLINE=1 $(PY) bench/train/main.py

.PHONY: bench-rollout
bench-rollout: install ## simulate rollouts by Sluice's and others' rules, and time rollbacks
	$(PY) bench/rollout/main.py

.PHONY: bench
bench: bench-traces bench-eval bench-train bench-rollout ## all measurements

.PHONY: crds
crds: install ## write the CRDs from the kinds
	$(PY) -P -m sluice_api.generator

.PHONY: monitoring
monitoring: install ## write Prometheus rules, dashboard and their tables from the metrics
	$(PY) -P -m sluice_operator.monitoring

.PHONY: manifests
manifests: install ## write the manifests of kubectl apply -k from the chart
	$(PY) charts/bare/generate.py

.PHONY: images
images: install ## build the container images without a registry (NAMES="operator evaluator trainer", TORCH=cpu)
	@.ci/image-tools
	$(PY) images/build.py $(NAMES) --torch $(or $(TORCH),cpu)

.PHONY: verify
verify: install ## fail when a generated file differs from its source
	$(PY) -P -m sluice_api.generator --check
	$(PY) -P -m sluice_operator.monitoring --check
	$(PY) charts/bare/generate.py --check

.PHONY: constraints
constraints: install ## write the versions in use to constraints.txt
	uv pip freeze --python $(PY) | grep -v -e '^-e' -e '@' > constraints.txt

.PHONY: clean
clean: ## remove the virtual environment and caches of tools (never builds under the user's cache folder)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
