# One verb each; every verb does its own set-up in .venv from a bare clone.
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := .venv/ready
PYTHON_CODE := src tests docs csrc benchmarks

.DEFAULT_GOAL := help
.PHONY: help install demo test sanitize bench check docs

help:
	@echo "make install   set up .venv with every extra"
	@echo "make demo      train, compare and segment; writes demo/report.html (SEED=n)"
	@echo "make test      the whole test suite"
	@echo "make sanitize  the kernels under the address and undefined-behaviour sanitizers"
	@echo "make bench     time the tap operations beside torch; writes benchmarks/taps.json"
	@echo "make check     format, lint, types, floors"
	@echo "make docs      the documentation, into site/"

install: $(READY)

# PIP_CONSTRAINT, unlike -c, also binds what pip fetches to build with.
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.* csrc/kernels/*.*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "atrous needs Python 3.11 or later, got $$($(PYTHON) --version); run: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(PIP) scikit-build-core cmake ninja torch
	PIP_CONSTRAINT=constraints.txt $(PIP) --no-build-isolation -e '.[train,plots,dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/atrous demo --seed $(SEED) --out demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

sanitize: $(READY)
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DATROUS_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	$(BIN)/python csrc/sanitize.py > build/sanitize/cases.txt
	build/sanitize/sanitize < build/sanitize/cases.txt

bench: $(READY)
	$(BIN)/python -m benchmarks taps --json benchmarks/taps.json --threads 1 2

check: $(READY)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/kernels/*.cpp csrc/kernels/*.h
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
