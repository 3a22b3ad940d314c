"""HTTP servers: serve ASGI applications, with token and Host checks, limits, and error responses."""
