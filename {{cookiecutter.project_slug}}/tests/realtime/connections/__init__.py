"""Tests of the engine's `connections`."""
