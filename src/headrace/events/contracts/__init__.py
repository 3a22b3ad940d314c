"""What the events of a topic must be: a contract's fields, its shape, and how it may change."""
