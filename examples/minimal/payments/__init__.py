"""payments: declare events, tables, features and models in modules of this package."""
