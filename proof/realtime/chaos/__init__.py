"""`make chaos`: what clients get while Redis and the nodes are killed, frozen and restarted."""
