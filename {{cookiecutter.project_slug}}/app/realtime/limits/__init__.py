"""Limits: who may connect, how many, and how fast each may send."""
