"""The wire: how a connection reads and writes, whichever server is below it."""
