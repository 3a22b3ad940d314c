"""The audits of tables, a module each. A new audit is a module, a declaration, and a line in run.py."""
