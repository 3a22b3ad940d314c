"""Wires: how the raw bytes of an event hold its fields. One file a wire; `open` is the only wiring.

A wire says nothing of what is right: it makes a struct of bytes, and the error it raises where it cannot
is what the event is refused for (headrace.events.decode).
"""

from __future__ import annotations

from headrace.declare.event import Contract
from headrace.events.wires.connect import Connect
from headrace.events.wires.debezium import Debezium
from headrace.events.wires.plain import Plain
from headrace.events.wires.port import REFUSES, Nothing, Wire
from headrace.kernel.errors import ProjectError

__all__ = ["REFUSES", "Nothing", "Wire", "open"]


def open(contract: Contract) -> Wire:  # noqa: A001
    """The wire of a contract.

    Raises:
        ProjectError: the contract names a wire that there is not.
    """
    if contract.wire == "json":
        return Plain()
    if contract.wire == "connect":
        return Connect()
    if contract.wire == "debezium":
        return Debezium(contract)
    raise ProjectError(f"there is no wire {contract.wire!r}", where=str(contract.place))
