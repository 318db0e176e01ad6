#!/usr/bin/env bash
# Checks and timings on a GPU, in some minutes and without a network: builds and installs this checkout beside the torch of
# python3, then `benchmarks/gpu.py` checks and times. Needs scikit-build-core, cmake, ninja and a C++ compiler.
#   benchmarks/gpu.sh [--quick] [--device cpu] [--only checks ...] [--dtypes float32 ...] [--cells PATTERN ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=build/gpu
rm -rf "$site"
"$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$site" .
PYTHONPATH="$site" exec "$python" -m benchmarks.gpu "$@"
