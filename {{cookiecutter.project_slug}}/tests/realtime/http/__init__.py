"""Tests of the engine's `http`."""
