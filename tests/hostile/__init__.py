"""What people hand in or publish to break things: short generators, each with what must happen."""
