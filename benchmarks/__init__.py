"""Timings of the compiled operations beside stock torch; `python -m benchmarks --help`."""
