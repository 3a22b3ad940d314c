"""The child processes of `up`, one program per file. `up` starts each by the name of its file."""
