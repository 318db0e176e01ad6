#!/usr/bin/env bash
# The baseline on a GPU, in a few minutes and without a network: builds and installs this checkout beside the torch of
# python3, then `benchmarks/gpu.py` checks and times. Needs scikit-build-core, cmake, ninja and a C++ compiler.
#   benchmarks/gpu.sh [--quick] [--device cpu] [--dtypes float32 ...] [--cells PATTERN ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=build/gpu
rm -rf "$site"
"$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$site" .
PYTHONPATH="$site" exec "$python" -m benchmarks.gpu "$@"
