"""Kafka Connect's envelope: `{"schema": ..., "payload": {...}}`, as its JsonConverter writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from headrace.events.reasons import Broken, Reason

__all__ = ["Connect"]


class Connect:
    """The event is the envelope's payload."""

    def decoder(self, kind: Any, *, strict: bool) -> Callable[[bytes], Any]:
        """See Wire."""
        envelope = msgspec.defstruct("Envelope", [("payload", kind)], gc=False)
        whole: Callable[[bytes], Any] = msgspec.json.Decoder(envelope, strict=strict).decode

        def decode(raw: bytes) -> Any:
            try:
                return whole(raw).payload
            except msgspec.ValidationError as error:
                text = str(error)
                if "$.payload" not in text and "`payload`" in text:
                    raise Broken(Reason("wrong_type", None, "it is no envelope: it has no payload")) from None
                raise msgspec.ValidationError(text.replace("$.payload", "$", 1)) from None

        return decode
