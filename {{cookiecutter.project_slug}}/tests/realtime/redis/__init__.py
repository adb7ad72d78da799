"""Tests of the engine's `redis`."""
