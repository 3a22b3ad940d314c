"""The file that the telecom's system exports, and its columns by the names that this project uses."""

import polars as pl

from headrace import source

# These columns must be there, with these types. Further columns are read as they are written.
customers_file = source(
    "customers_file",
    "data/customers.csv",
    schema={
        "CustomerId": str,
        "Age": int,
        "Tenure": int,
        "ContractType": str,
        "MonthlyCharges": float,
        "TotalCharges": float,  # blank for a customer of the first month
        "Churned": str,  # empty while it is not known
    },
)


def rename(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows with the project's names of columns: the file has these."""
    return rows
