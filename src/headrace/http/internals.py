"""The parts of uvicorn beyond its public interface that Headrace uses."""

from __future__ import annotations

__all__ = ["INTERNALS"]

INTERNALS = {
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol": (
        "_unset_keepalive_if_required",
        "connection_lost",
        "connection_made",
        "connections",
        "cycle",
        "data_received",
        "eof_received",
        "headers",
        "loop",
        "on_body",
        "on_headers_complete",
        "on_message_begin",
        "on_message_complete",
        "on_response_complete",
        "parser",
        "pause_writing",
        "pipeline",
        "resume_writing",
        "scope",
        "transport",
        "url",
    ),
    "uvicorn.protocols.http.httptools_impl.RequestResponseCycle": (
        "keep_alive",
        "more_body",
        "response_complete",
    ),
    "uvicorn.server.Server": ("servers", "should_exit", "shutdown", "startup"),
}
"""Class → the methods and attributes that headrace.http.connection and headrace.http.serve override or read."""
