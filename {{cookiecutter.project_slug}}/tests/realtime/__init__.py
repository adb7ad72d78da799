"""The engine's own tests. What you edit outside of `app/realtime` does not change their results."""
