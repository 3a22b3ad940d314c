"""The statistics of data files in manifests, in the form in which Polars skips files by them."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from headrace.lake.metadata import StoredSchema

__all__ = ["null_counts", "statistics_of"]

# A column's type → the type of its bounds, by Iceberg's "Binary single-value serialization". Floats are left
# out: their bounds do not count NaN.
_PHYSICAL: dict[pl.DataType | type[pl.DataType], pl.DataType | type[pl.DataType]] = {
    pl.Boolean: pl.UInt8,
    pl.Int32: pl.Int32,
    pl.Int64: pl.Int64,
    pl.Date: pl.Int32,
    pl.Datetime("us"): pl.Int64,
    pl.Datetime("us", "UTC"): pl.Int64,
}


def null_counts(files: pl.DataFrame) -> pl.DataFrame:
    """How many nulls each file has in each column: a row for each file; each column is named by its id."""
    return _by_id(files, "null_value_counts")


def statistics_of(files: pl.DataFrame, schema: StoredSchema, columns: pa.Schema) -> pl.DataFrame:
    """The statistics of data files: a row for each file.

    Args:
        files: the files, as fields of Iceberg's `data_file`.
        schema: the columns.
        columns: the same columns as an Arrow schema.

    Returns:
        `len`, UInt32: a file's rows. For each column C that has them, `C_nc`, UInt32: its nulls; `C_min` and
        `C_max`: bounds of its values. Null: unknown.
    """
    nulls, lower, upper = null_counts(files), _by_id(files, "lower_bounds"), _by_id(files, "upper_bounds")
    dtypes = pl.Schema(columns)
    statistics = [files["record_count"].cast(pl.UInt32, strict=False).alias("len")]
    for field in schema.fields:
        dtype, column = dtypes[field.name], str(field.id)
        if dtype not in (*_PHYSICAL, pl.String, pl.Binary):
            continue
        statistics += [
            _find(nulls, column, pl.Int64).cast(pl.UInt32, strict=False).alias(f"{field.name}_nc"),
            _decode(_find(lower, column, pl.Binary), dtype).alias(f"{field.name}_min"),
            _decode(_find(upper, column, pl.Binary), dtype).alias(f"{field.name}_max"),
        ]
    return pl.DataFrame(statistics)


def _by_id(files: pl.DataFrame, statistic: str) -> pl.DataFrame:
    """One map of the files, by the ids of columns: a row for each file, and a column for each key."""
    entries = files.select(pl.int_range(pl.len()).alias("file"), statistic).explode(statistic)
    by_id = entries.unnest(statistic).pivot(on="key", index="file", values="value")
    # A file without any entry, as of columns that are all null, has no row yet.
    return pl.select(file=pl.int_range(len(files))).join(by_id, on="file", how="left", maintain_order="left")


def _find(by_id: pl.DataFrame, column: str, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
    return by_id[column] if column in by_id.columns else pl.repeat(None, by_id.height, dtype=dtype, eager=True)


def _decode(bounds: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Iceberg's binary values as values of a column."""
    if dtype == pl.Binary:
        return bounds
    if dtype == pl.String:
        return bounds.cast(pl.String)
    values = bounds.bin.reinterpret(dtype=_PHYSICAL[dtype], endianness="little")
    if dtype == pl.Int64:  # the column may have been an int when the file was written
        values = values.fill_null(bounds.bin.reinterpret(dtype=pl.Int32, endianness="little").cast(pl.Int64))
    return values.cast(dtype)
