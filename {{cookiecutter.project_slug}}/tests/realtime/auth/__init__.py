"""Tests of the engine's `auth`."""
