"""The proof of the engine: tests too deep for a project, chaos, and what runs them against one.

`realtime/` is laid over `tests/realtime/` of a copy of a project, so that a proof's modules use the
project's own test harness. The template's tests and ``make prove`` run them.
"""
