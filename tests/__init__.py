"""Proof that the template makes a working service of every combination of answers."""
