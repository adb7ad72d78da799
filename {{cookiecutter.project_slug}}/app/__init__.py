"""A real-time service over WebSockets."""
