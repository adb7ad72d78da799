"""Limits: who may connect from where, how many, and how fast each may send."""
