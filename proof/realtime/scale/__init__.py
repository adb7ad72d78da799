"""`make scale`: measures what Redis pays for each operation, and how much one server takes."""
