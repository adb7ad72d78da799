"""The endpoint: the life of a connection, from the handshake to its end."""
