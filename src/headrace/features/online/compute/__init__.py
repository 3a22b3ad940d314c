"""Where the states of an as-of view are computed, behind one port: in this process, or by tasks of Ray."""
