"""Real servers for tests and development, each started, waited for and stopped in one way.

`python -m services NAME [--folder DIR]` starts one in the foreground; tests use the same functions.
"""
