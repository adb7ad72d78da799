"""Commands: how they are registered, validated and answered, and the built-in ones."""
