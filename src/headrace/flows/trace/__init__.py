"""The commands that lead back to the data: why, check parity, check skew."""
