"""The child processes of `up`, one program a file; `up` starts each by the name of its file."""
