"""The log: append-only topics in log partitions, with offsets."""
