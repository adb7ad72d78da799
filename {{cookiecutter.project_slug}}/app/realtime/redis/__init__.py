"""Redis or Valkey between the nodes: messages, and what all nodes must know."""
