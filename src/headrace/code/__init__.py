"""Python source, read: what a declaration reaches, its fingerprint, and functions carried by value."""
