"""The port of a format: decodes the raw bytes of an event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from decimal import InvalidOperation
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from headrace.declare.event import Contract
from headrace.events.formats.refusals import InvalidEvent

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["DECODE_ERRORS", "Format", "NoEvent"]

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation, InvalidEvent)
"""The errors by which a decoder refuses an event; refusals.refusal_of reads all of them."""


class NoEvent(Exception):
    """The bytes hold no event and need not hold one (a tombstone): nothing is stored for them."""


class Format(ABC):
    """An encoding of events. A format does not judge an event: it decodes its bytes to a struct.

    Args:
        contract: the contract of the topic.
        schema_registry: holds the schemas that the events name; None: the profile names no registry.

    Raises:
        ProjectError: the format needs a schema registry and has none.
        Unavailable: a package that the format needs is not installed.
    """

    plain_json: ClassVar[bool] = False
    """Whether an event is one JSON object whose keys are the fields: what HTTP clients and files hold."""

    typed_times: ClassVar[bool] = True
    """Whether a time may be a datetime or a number, not only text. The decoder then gets structs whose times
    are of type Any; headrace.events.contracts.times parses them."""

    def __init__(self, contract: Contract, schema_registry: SchemaRegistry | None) -> None:
        self.contract = contract
        self.schema_registry = schema_registry

    @abstractmethod
    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """Build the function that decodes the raw bytes of one event.

        Args:
            kind: a struct, whose fields are found by their encoded names; or Any, which gives dicts, lists
                and plain values. Of those a number with a point or an exponent is a Decimal.
            strict: whether "35" is refused where an integer is declared.
            empty_is_null: the top-level fields in which "" stands for null.

        Returns:
            A function from bytes to an object of `kind`. It raises one of DECODE_ERRORS if the bytes do not
            hold one; NoEvent; or Unavailable, if something that the format needs cannot be reached.
        """
