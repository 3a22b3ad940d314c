"""The real file of a telecom's customers (IBM's Telco customer churn), by the names that this project uses."""

import polars as pl

from headrace import source

customers_file = source(
    "customers_file",
    "data/customers.csv",
    schema={
        "customerID": str,
        "tenure": int,
        "Contract": str,
        "MonthlyCharges": float,
        "TotalCharges": float,  # blank for a customer of the first month
        "Churn": str,  # empty while it is not known
    },
)

NAMES = {
    "customerID": "CustomerId",
    "tenure": "Tenure",
    "Contract": "ContractType",
    "PhoneService": "HasPhoneService",
    "Churn": "Churned",
}


def rename(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows with the project's names of columns. What the file does not tell is null."""
    names = rows.collect_schema().names()
    rows = rows.rename(NAMES, strict=False).with_columns(Age=pl.lit(None, pl.Int64))
    if "InternetService" in names:
        has_internet = pl.when(pl.col("InternetService") == "No").then(pl.lit("No")).otherwise(pl.lit("Yes"))
        rows = rows.with_columns(HasInternetService=has_internet)
    if "PaymentMethod" in names:
        rows = rows.with_columns(CustomerValue=pl.lit(None, pl.Float64), RiskScore=pl.lit(None, pl.Float64))
    return rows
