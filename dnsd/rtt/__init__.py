"""Round-trip times between client blocks and sites: measured, kept, decided, inferred."""
