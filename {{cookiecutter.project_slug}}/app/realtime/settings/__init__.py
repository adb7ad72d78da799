"""Settings of the engine. The types of their values are in `fields`."""
