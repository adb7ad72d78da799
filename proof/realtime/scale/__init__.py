"""`make scale`: measures the CPU cost of each Redis operation, and the maximum throughput."""
