"""`make chaos`: injects faults into Redis, nodes and connections, and counts lost messages."""
