"""Redis or Valkey between the nodes: messages, and the state that all nodes share."""
