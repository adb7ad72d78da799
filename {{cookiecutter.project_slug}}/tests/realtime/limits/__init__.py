"""Tests of the engine's `limits`."""
