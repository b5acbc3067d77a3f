# Every target sets up what it needs: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=
TORCH := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

.DEFAULT_GOAL := help
.PHONY: help demo test test-node test-docker check protos manifests release-protos format bench bench-wire bench-audit bench-cluster bench-plan bench-sizing bench-compose clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ELSA needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "setting up .venv (once; downloads about 600 MB, gigabytes more where pip takes torch for CUDA: see README)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) -c constraints.txt -e '.[train,demo,dev]'
	@touch $@

demo: $(READY) ## Fine-tune a model over a cloud, two edges and four clients on this machine
	$(BIN)/elsa demo $(ARGS)

test: $(READY) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest $(ARGS)

test-node: $(READY) ## Run the tests of the example for Node.js, with its packages
	npm ci --prefix examples/node --no-audit --no-fund
	OMP_NUM_THREADS=1 $(BIN)/pytest -m node tests/examples $(ARGS)

test-docker: $(READY) ## Build the images and run the testbed of containers for real (needs an engine, and compose)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m docker tests/docker $(ARGS)

check: $(READY) ## Formatting, lint, types, and that generated code is up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@out=$$(mktemp -d) && mkdir -p $$out/elsa && PYTHON=$(BIN)/python protos/generate.sh $$out \
	  && diff -r -x __init__.py -x __pycache__ $$out/elsa/v1 elsa/v1 && rm -r $$out && echo "generated code is up to date"
	$(BIN)/python protos/versions.py
	$(BIN)/python protos/document.py --check

protos: $(READY) ## Write the generated code of protos/, and docs/api.md
	PYTHON=$(BIN)/python protos/generate.sh
	$(BIN)/python protos/document.py

manifests: $(READY) ## Write deploy/manifests and the chart's schema from the chart and the roles' settings
	$(BIN)/python -m deploy.render

release-protos: $(READY) ## Write down the API of this version as released: from then on it only grows
	$(BIN)/python protos/versions.py release

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure what benchmarks/README.md states
	$(BIN)/python -m benchmarks $(ARGS)

bench-wire: $(READY) ## Measure codecs: accuracy, bytes and time on TREC-6 and AG News
	$(BIN)/python -m benchmarks.wire $(ARGS)

bench-cluster: $(READY) ## Measure clusters and trust: groups found, bad clients told, what trust is worth, what it costs
	$(BIN)/python -m benchmarks.cluster $(ARGS)

bench-plan: $(READY) ## Measure planned splits: memory of a small client, unequal devices, a slow-down, planning itself
	$(BIN)/python -m benchmarks.plan $(ARGS)

bench-sizing: $(READY) ## Measure what a fleet needs: memory of each role, what an edge's core trains, what nodes cost
	$(BIN)/python -m benchmarks.sizing $(ARGS)

bench-audit: $(READY) ## Measure what docs/privacy.md states: what a curious edge recovers under each protection
	$(BIN)/elsa audit --data ../shared/data/trec6/train.jsonl.gz --test ../shared/data/trec6/test.jsonl.gz \
	  --steps 680 --settings benchmarks/audit.yaml --output elsa-bench/audit $(ARGS)

bench-compose: $(READY) ## Measure the testbed of containers: first step, memory, image sizes, draining
	$(BIN)/python -m benchmarks.compose $(ARGS)

clean: ## Remove what `make demo`, `make bench-wire` and the tests left
	rm -rf elsa-demo elsa-bench elsa-state .pytest_cache .mypy_cache .ruff_cache .hypothesis
