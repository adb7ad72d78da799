"""Settings of the engine, and the types and checks of their values."""
