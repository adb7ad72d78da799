"""How fast the service is, beside what else people use: ``python -m benchmarks``."""
