"""What our node is measured against: one program per file, each a process of its own like a node."""
