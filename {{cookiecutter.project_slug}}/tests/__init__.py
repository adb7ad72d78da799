"""Tests: a real server, real sockets, a real client."""
