"""What every HTTP door shares: token, host check, limits, error bodies, and how it is served."""
