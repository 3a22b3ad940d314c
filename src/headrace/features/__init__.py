"""Features: plan, windows, point in time, online, Feast."""
