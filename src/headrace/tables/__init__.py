"""Tables: each is a function of its inputs, and a build makes only the partitions whose input has changed."""
