"""Timings beside other programs: python -m benchmarks [NAME ...] [--quick] [--json FILE]; never part of the tests."""
