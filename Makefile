# Everything runs in .venv, built from requirements.lock. Nothing needs root; the package index is the only network used.
PYTHON ?= python3
CORES ?= all
PORT ?= 5000
MINUTES ?= 10
SET ?= $(shell sed -n 's/^experiments: *["'"'"']*\([a-z0-9_]*\).*/\1/p' config/config.yaml)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
unexport PIP_PREFIX PIP_ROOT PIP_TARGET PIP_USER PYTHONHOME # packages go to .venv

# Tests wait more than they compute: four processes suit two cores. The tests of a file share what they prepare, so one
# process runs them. (pytest 9.2 takes no notice of the groups of pytest-xdist 3.8.)
PARALLEL := --numprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup reproduce published lint test soak fuzz scale format ui report site clean lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Build .venv from requirements.lock (the other targets do it too)

reproduce: $(READY) ## Run the experiment set of config/config.yaml: data, training, evaluation, tables, figures
	$(BIN)/snakemake --cores $(CORES)

published: $(READY) ## Make the tables and figures of results/published anew: a minute, no training
	$(BIN)/snakemake --cores 1 published

lint: $(READY) ## Check format, types and the workflow's style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint

test: lint ## Run all checks: those of lint, and the tests
	$(BIN)/pytest $(PARALLEL)

soak: $(READY) ## Kill, fill, lock and damage on purpose for MINUTES, and report what was lost (SEED=n to repeat)
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## Give readers and configuration new damaged and hostile files, 2,500 for every such test (4 minutes)
	HYPOTHESIS_PROFILE=long $(BIN)/pytest -m hypothesis

scale: $(READY) ## Run `quick` through SLURM and with PostgreSQL, an hour; needs both (docs/cluster.md)
	$(BIN)/pytest -m scale

format: $(READY) ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt workflow

ui: $(READY) ## Show all runs in MLflow's web page, on this machine only; print the address that compares those of SET
	@case "$$MLFLOW_TRACKING_URI" in http*) \
		echo "MLflow runs already: $$MLFLOW_TRACKING_URI"; exec $(BIN)/biva compare $(SET);; esac; \
	test -n "$$MLFLOW_TRACKING_URI" || test -f results/mlflow/mlflow.db || \
		{ echo "There are no runs yet: results/mlflow/mlflow.db does not exist. Run 'make reproduce' first." >&2; exit 1; }; \
	echo "MLflow: http://127.0.0.1:$(PORT)   (Ctrl-C ends it; another port: make ui PORT=5001)"; \
	echo "It begins with language models: choose 'Model training' at the upper left, once in a browser."; \
	echo "Runs of $(SET) beside each other; with labels, if there are such, on another page:"; \
	$(BIN)/biva compare $(SET) --server http://127.0.0.1:$(PORT) || true; \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false exec $(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///results/mlflow/mlflow.db}"

report: $(READY) ## Write results/SET/index.html, summary.tex and .pdf (where LaTeX is), and of a finished set results/report.html
	$(BIN)/biva summary $(SET)
	$(BIN)/snakemake --report results/report.html --config experiments=$(SET)

site: published ## Write site/: the documentation, published tables and figures, and the code's docstrings as web pages
	$(BIN)/python -m pip install -qq --no-deps --requirement docs/site/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open site/index.html, or: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

clean: ## Delete .venv, site and the tools' caches; data and results stay
	rm -rf $(VENV) site *.egg-info build .mypy_cache .pytest_cache .ruff_cache .hypothesis

lock: ## Renew requirements.lock and docs/licences.md from pyproject.toml
	.ci/lock $(PYTHON)

# Installed anew when the lock or pyproject.toml changes; what is there already is kept.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) must be Python 3.11 or newer. Name one that is: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the locked packages into $(VENV) (about 3 minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@# torch first: asked by hash, pip would prefer a build of the index to one of a folder, such as a CPU build.
	@$(BIN)/python -m pip download -qq --no-deps --dest $(VENV)/torch $$(grep -o '^torch==[^ ]*' requirements.lock)
	@sed -n '/^torch==/,/[^\\]$$/p' requirements.lock > $(VENV)/torch/requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-index --find-links $(VENV)/torch \
		--requirement $(VENV)/torch/requirements.lock
	@rm -r $(VENV)/torch
	@$(BIN)/python -m pip install -qq --no-deps --requirement requirements.lock
	@$(BIN)/python -m pip install -qq --no-build-isolation --editable . # and what torch's CUDA build needs
	@touch $@
