"""How fast the service is, compared with other servers: ``python -m benchmarks``."""
