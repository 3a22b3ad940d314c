"""Finds processes by a mark in their environment, which children inherit, and their listening sockets."""

import ipaddress
import os
from pathlib import Path

MARK = "HEADRACE_TEST_MARK"


def processes_with_mark(mark: str) -> dict[int, str]:
    """Process id → command line of every live process with the mark."""
    entry = f"{MARK}={mark}".encode()
    results = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            is_alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if is_alive and entry in (folder / "environ").read_bytes().split(b"\0"):
                results[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return results


def descendants(pid: int) -> list[int]:
    """The process ids of the children of the process, and of their descendants."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    results, pending = [], [pid]
    while pending:
        parent_pid = pending.pop()
        children = [child for child, parent in parents.items() if parent == parent_pid]
        results += children
        pending += children
    return results


def listening_sockets(pids):
    """(address, port, process id) of every TCP socket that these processes listen on, and of every UDP
    socket that is bound."""
    owners = {}
    for pid in pids:
        try:
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                owners.setdefault(os.readlink(entry), pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    results = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            owner = owners.get(f"socket:[{fields[9]}]")
            if owner is not None and (fields[3] == "0A" or kind.startswith("udp")):
                address, port = fields[1].split(":")
                results.append((_address(address), int(port, 16), owner))
    return results


def _address(text):
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address
