"""Large requests: answered in a process beside the replica, so that single requests do not wait for them."""
