"""Redis or Valkey between the nodes: messages, and the state that all nodes share.

`shared` joins the parts for the application. `client` sends commands, over the `connections` of one
of the `topologies`; `publisher` and `listener` carry the messages of `backplane`.
"""
