"""The formats of a source's files: each is one file here, and one line in FORMATS for each end of a name."""

from headrace.tables.formats.csv import scan_csv_files
from headrace.tables.formats.json import scan_json_files
from headrace.tables.formats.parquet import scan_parquet_files
from headrace.tables.formats.port import Scan

__all__ = ["FORMATS"]

FORMATS: dict[str, Scan] = {
    ".csv": scan_csv_files,
    ".parquet": scan_parquet_files,
    ".ndjson": scan_json_files,
    ".jsonl": scan_json_files,
    ".json": scan_json_files,
}
"""End of a file's name → what reads the files."""
