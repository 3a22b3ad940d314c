"""HTTP servers: how an ASGI application is served, token and Host checks, limits, and error responses."""
