"""The engine's proof: tests that are too deep for a project's own suite, chaos, and their runner.

`realtime/` is laid over `tests/realtime/` of a copy of a project, so its modules use the project's
test harness. ``make prove`` and the template's tests run it.
"""
