"""Tests of the engine's `endpoint`."""
