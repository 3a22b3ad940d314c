"""Adoption: compares a contract with the one that its topic's table has, creates or extends the table, and
stores the contract with it.

Several processes may do this at once, with the same contract or with two. Each starts from the table's stored
contract, and starts again if another process changed it meanwhile. A process that still runs with the older
contract continues: its rows lack the new columns.
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

__all__ = ["adopt_contract", "contract_refusal", "find_stored_contract"]

_TRIES = 20


def adopt_contract(contract: Contract, lake: Lake) -> LakeTable:
    """Gives the topic's table the columns and the description of the contract; returns the table.

    Raises:
        Refused: the contract is not compatible with the table's last one and its version is not higher, or its
            version is lower.
        ProjectError: a column is stored with another type, or the table is partitioned otherwise.
        Unavailable: other processes changed the table each time.
    """
    new = describe_contract(contract)
    for _ in range(_TRIES):
        table = lake.table(contract.table) if lake.table_exists(contract.table) else None
        text = None if table is None else table.property(CONTRACT)
        old = None if text is None else json.loads(text)
        if old is not None and (error := contract_refusal(contract, old, new)) is not None:
            raise error
        table = lake.ensure(
            contract.table, table_schema(contract), [("_valid", "identity"), (contract.time, "day")]
        )
        if old is not None and old["fingerprint"] == new["fingerprint"] and old["version"] >= new["version"]:
            return table
        try:
            table.set_properties({CONTRACT: json.dumps(new)}, expect={CONTRACT: text})
        except Conflict:
            continue
        return table
    raise Unavailable(f"other processes kept changing table {contract.table}", remedy="Try again.")


def find_stored_contract(contract: Contract, lake: Lake) -> dict[str, Any] | None:
    """Finds the description of the contract that the topic's table last had; None: it had none."""
    if not lake.table_exists(contract.table):
        return None
    text = lake.table(contract.table).property(CONTRACT)
    return None if text is None else json.loads(text)


def contract_refusal(contract: Contract, old: dict[str, Any], new: dict[str, Any]) -> Refused | None:
    """Why a contract cannot replace the one before it, or None.

    Args:
        contract: the new contract.
        old, new: descriptions of both (events.contracts.description).
    """
    changes = compare_contracts(old, new)
    if not changes:
        return None
    where = f"{contract.place}: topic {contract.topic}"
    version = old["version"]
    if new["version"] < version:
        return Refused(
            f"the table has version {version} of this contract, and this is version {new['version']}",
            where=where,
            remedy=f"Run the newer code. To return to this contract, declare it as version={version + 1}.",
        )
    unstorable = [change for change in changes if change.level == "cannot be stored"]
    if unstorable:
        return Refused(
            f"the table cannot hold the events of the changed contract:\n{_list(unstorable)}",
            where=where,
            remedy="Give the field a new name, or the contract a new topic; the old column stays as it is.",
        )
    breaking = [change for change in changes if change.level in ("tightens", "breaks")]
    if breaking and new["version"] == version:
        return Refused(
            f"the contract has changed, but its version has not:\n{_list(breaking)}",
            where=where,
            remedy=f"If the change is intended, declare version={version + 1}; headrace check contracts lists"
            " what it breaks.",
        )
    return None


def _list(changes: list[ContractChange]) -> str:
    return "\n".join(
        f"  {change.field or 'the contract'}: {change.text} ({change.level})" for change in changes
    )
