"""The topic's table takes its contract: compared with the last, then made or grown, then remembered.

Several processes may do this at once, with the same contract or with two: each looks at what the table
has, and begins again where another was quicker. What still runs with the older contract goes on: its
rows lack the new columns.
"""

from __future__ import annotations

import json
from typing import Any

from headrace.declare.event import Contract
from headrace.events.contracts.description import describe_contract
from headrace.events.contracts.evolution import ContractChange, compare_contracts
from headrace.events.contracts.shape import table_schema
from headrace.kernel.errors import Conflict, Refused, Unavailable
from headrace.kernel.properties import CONTRACT
from headrace.lake import Lake, LakeTable

__all__ = ["adopted", "kept", "refusal"]

_TRIES = 20


def adopted(contract: Contract, lake: Lake) -> LakeTable:
    """The topic's table, as the contract wants it.

    Raises:
        Refused: the contract is not compatible with what the table last had, and its version does not
            say that this is meant; or it is older than that.
        ProjectError: a column is stored with another type, or the table is partitioned otherwise.
        Unavailable: others changed the table each time.
    """
    new = describe_contract(contract)
    for _ in range(_TRIES):
        table = lake.table(contract.table) if lake.table_exists(contract.table) else None
        had = None if table is None else table.property(CONTRACT)
        old = None if had is None else json.loads(had)
        if old is not None and (error := refusal(contract, old, new)) is not None:
            raise error
        table = lake.ensure(
            contract.table, table_schema(contract), [("_valid", "identity"), (contract.time, "day")]
        )
        if old is not None and old["fingerprint"] == new["fingerprint"] and old["version"] >= new["version"]:
            return table
        try:
            table.set_properties({CONTRACT: json.dumps(new)}, expect={CONTRACT: had})
        except Conflict:
            continue
        return table
    raise Unavailable(f"other processes kept changing table {contract.table}", remedy="Try again.")


def kept(contract: Contract, lake: Lake) -> dict[str, Any] | None:
    """The description of the contract that the topic's table last had; None where it had none."""
    if not lake.table_exists(contract.table):
        return None
    text = lake.table(contract.table).property(CONTRACT)
    return None if text is None else json.loads(text)


def refusal(contract: Contract, old: dict[str, Any], new: dict[str, Any]) -> Refused | None:
    """Why a contract cannot take the place of the one before it, or None."""
    found = compare_contracts(old, new)
    if not found:
        return None
    where = f"{contract.place}: topic {contract.topic}"
    was = old["version"]
    if new["version"] < was:
        return Refused(
            f"the table has seen version {was} of this contract, and this is version {new['version']}",
            where=where,
            remedy=f"Run the newer code; or, to go back to this contract, declare it as version={was + 1}.",
        )
    lost = [one for one in found if one.level == "cannot be stored"]
    if lost:
        return Refused(
            f"the contract has changed so that its table cannot hold it:\n{_lines(lost)}",
            where=where,
            remedy="Give the field a new name, or the contract a new topic; the old column stays as it is.",
        )
    meant = [one for one in found if one.level in ("tightens", "breaks")]
    if meant and new["version"] == was:
        return Refused(
            f"the contract has changed, and not its version:\n{_lines(meant)}",
            where=where,
            remedy=f"If this is meant, declare it with version={was + 1}; headrace check contracts says for "
            "whom it breaks.",
        )
    return None


def _lines(found: list[ContractChange]) -> str:
    return "\n".join(f"  {one.field or 'the contract'}: {one.text} ({one.level})" for one in found)
