"""What every HTTP door shares: token, limits, error bodies."""
