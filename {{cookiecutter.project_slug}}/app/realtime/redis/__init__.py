"""Redis or Valkey between the nodes: messages, history, presence, and what must be unique."""
