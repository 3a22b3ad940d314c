"""Real servers for tests and development, each started, waited for and stopped in one way.

`python -m services [--folder DIR] NAME` starts one in the foreground; tests use the same functions.
"""
