"""Processes by a mark in their environment, which all that they begin inherit; and where they listen."""

import ipaddress
import os
import re
from pathlib import Path

MARK = "HEADRACE_TEST_MARK"


def marked(mark: str) -> dict[int, str]:
    """Process id → command line of every living process with the mark."""
    wanted = f"{MARK}={mark}".encode()
    results = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            living = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if living and wanted in (folder / "environ").read_bytes().split(b"\0"):
                results[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return results


def descendants(pid: int) -> list[int]:
    """The process ids of what the process began, and of what those began."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    results, waiting = [], [pid]
    while waiting:
        above = waiting.pop()
        children = [child for child, parent in parents.items() if parent == above]
        results += children
        waiting += children
    return results


def pss(pid: int) -> int:
    """What the process holds of the memory, its share of what it shares, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024


def listening(pids):
    """(address, port, process id) of every TCP socket that these processes listen on, and of every UDP
    socket that is bound."""
    owners = {}
    for pid in pids:
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                owners.setdefault(os.readlink(entry.path), pid)
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
