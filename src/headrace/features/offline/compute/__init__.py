"""Where the features of labels are computed, behind one port: in this process, or by tasks of Ray."""
