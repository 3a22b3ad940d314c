"""Generates the customers of a telecom from a seed, in three versions of their file.

    python generate.py --version 1

writes data/customers.csv (what the telecom's system exports) and data/truth.parquet (the true probability
that each customer leaves, which nobody knows in a real telecom, and whether the customer left).

Every version has the customers of the one before, further customers, and further columns. Whether a customer
leaves is drawn once, with a probability that depends on the columns of version 3. So the best possible ROC AUC
is known for each version: that of the probability of leaving given what its columns show, which is the mean
over what they do not show.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import product
from math import erf, sqrt
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

HERE = Path(__file__).parent
CUSTOMERS = 12_000  # of version 3
SHARE = {1: 0.8, 2: 0.9, 3: 1.0}  # version → the share of these that it has
CURRENT = 800  # customers whose Churned is empty, because it is not known yet whether they will leave
COLUMNS = {
    1: ["CustomerId", "Age", "Tenure", "ContractType", "MonthlyCharges", "TotalCharges"],
    2: ["HasPhoneService", "HasInternetService"],
    3: ["InternetService", "PaymentMethod", "CustomerValue", "RiskScore"],
}
"""Version → the columns that it adds. Churned is the last column of each."""

CONTRACTS = {"Month-to-month": 0.9, "One year": -0.7, "Two year": -1.7, "Custom": -0.3, "Flex": 0.5}
NEW_CONTRACT = {1: 3, 2: 4, 3: 5}  # version → how many kinds of contracts its new customers choose from
YEARS = {"Month-to-month": 1, "One year": 2, "Two year": 3, "Custom": 2, "Flex": 1}
PHONE_SHARE, FIBER_SHARE = 0.75, 0.55
PHONE = {False: 0.8, True: 0.0}
INTERNET = {"No": -1.1, "DSL": -0.1, "Fiber optic": 0.9}
PAYMENTS = {
    "Electronic check": (0.34, 0.7),
    "Mailed check": (0.22, 0.0),
    "Bank transfer (automatic)": (0.22, -0.3),
    "Credit card (automatic)": (0.22, -0.5),
}
"""Method → the share of customers, and its effect."""
RISK_MEAN, RISK_SPREAD, RISK_EFFECT = 50, 15, 0.07
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Generated:
    """One version of the customers.

    Attributes:
        customers: the file's columns, as text.
        truth: CustomerId, probability (given the version's columns), is_churned, is_current.
        best_auc: the ROC AUC of these probabilities over the customers whose Churned is known.
    """

    customers: pl.DataFrame
    truth: pl.DataFrame
    best_auc: float


def generate(version: int, customers: int = CUSTOMERS, seed: int = 7) -> Generated:
    """Generates a version of the file. The same customers and seed give the same people in every version."""
    people = _people(customers, seed)
    count = round(customers * SHARE[version])
    people = people.head(count).with_columns(
        is_current=pl.Series(np.arange(count) < min(CURRENT, customers // 5)),  # they are in every version
        probability=pl.Series(_probability(people.head(count), version)),
    )
    shown = [name for number, names in COLUMNS.items() if number <= version for name in names]
    file = people.select(
        *(_as_text(people[name]).alias(name) for name in shown),
        Churned=pl.when(~pl.col("is_current")).then(
            pl.when("is_churned").then(pl.lit("Yes")).otherwise(pl.lit("No"))
        ),
    )
    known = people.filter(~pl.col("is_current"))
    return Generated(
        file,
        people.select("CustomerId", "probability", "is_churned", "is_current"),
        roc_auc(known["is_churned"].to_numpy(), known["probability"].to_numpy()),
    )


def _people(count: int, seed: int) -> pl.DataFrame:
    """Everything about all customers: the columns of the files, and whether they leave."""
    rng = np.random.default_rng(seed)
    tenure = np.minimum(np.floor(rng.gamma(1.3, 25, count)), 72).astype(int)
    kinds = list(CONTRACTS)
    first = np.searchsorted([SHARE[1] * count, SHARE[2] * count], np.arange(count), side="right") + 1
    contract = [
        kinds[_choose(rng, [4 - 0.03 * months, 1.5, 0.3 + 0.05 * months, 2.5, 2.5][: NEW_CONTRACT[version]])]
        for months, version in zip(tenure, first, strict=True)
    ]
    monthly = np.round(rng.normal(65, 25, count).clip(18.25, 118.75), 2)
    total = np.round(monthly * tenure * rng.normal(1, 0.03, count), 2)
    has_internet = rng.random(count) < _internet_share(monthly)
    internet = np.where(has_internet, np.where(rng.random(count) < FIBER_SHARE, "Fiber optic", "DSL"), "No")
    methods, shares = list(PAYMENTS), [share for share, _ in PAYMENTS.values()]
    people = pl.DataFrame(
        {
            "CustomerId": [f"C{number:06}" for number in rng.permutation(900_000)[:count] + 100_000],
            "Age": rng.integers(18, 91, count),
            "Tenure": tenure,
            "ContractType": contract,
            "MonthlyCharges": monthly,
            "TotalCharges": total,
            "HasPhoneService": rng.random(count) < PHONE_SHARE,
            "HasInternetService": has_internet,
            "InternetService": internet,
            "PaymentMethod": rng.choice(methods, count, p=shares),
            "CustomerValue": np.round(monthly * 12 * np.array([YEARS[kind] for kind in contract]), 2),
            "RiskScore": np.round(rng.normal(RISK_MEAN, RISK_SPREAD, count)).clip(0, 100).astype(int),
        }
    ).with_columns(TotalCharges=pl.when(pl.col("Tenure") > 0).then("TotalCharges"))
    return people.with_columns(is_churned=pl.Series(rng.random(count) < _probability(people, 3)))


def _choose(rng: np.random.Generator, weights: list[float]) -> int:
    return int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))


def _internet_share(monthly: Floats) -> Floats:
    """The share of customers with these monthly charges who have internet."""
    return _sigmoid((monthly - 50) / 20)


def _probability(people: pl.DataFrame, version: int) -> Floats:
    """The probability that each customer leaves, given the columns of the version."""
    base = _effect_of_contract(people)
    if version == 3:
        extras = _effects(people, "PaymentMethod", {name: effect for name, (_, effect) in PAYMENTS.items()})
        extras = extras + RISK_EFFECT * (people["RiskScore"].to_numpy() - RISK_MEAN)
        score = (
            base + _effects(people, "HasPhoneService", PHONE) + _effects(people, "InternetService", INTERNET)
        )
        return _sigmoid(score + extras)
    monthly = people["MonthlyCharges"].to_numpy()
    has = people["HasInternetService"].to_numpy() if version == 2 else _internet_share(monthly)
    internet = {"No": 1.0 - has, "DSL": has * (1 - FIBER_SHARE), "Fiber optic": has * FIBER_SHARE}
    phone = people["HasPhoneService"].to_numpy() if version == 2 else np.full(len(people), PHONE_SHARE)
    result = np.zeros(len(people))
    for (kind, weight), has_phone in product(internet.items(), (False, True)):
        share = weight * np.where(has_phone, phone, 1.0 - phone)
        result += share * _mean_over_extras(base + INTERNET[kind] + PHONE[has_phone])
    return result


def _effect_of_contract(people: pl.DataFrame) -> Floats:
    """What the columns of version 1 add to the score."""
    age, monthly = people["Age"].to_numpy(), people["MonthlyCharges"].to_numpy()
    return (
        -1.5
        + _effects(people, "ContractType", CONTRACTS)
        - 0.03 * (people["Tenure"].to_numpy() - 30)
        + 0.02 * (monthly - 65)
        + 0.0008 * ((age - 50) ** 2 - 440)
    )


def _effects(people: pl.DataFrame, column: str, effects: dict[str, float] | dict[bool, float]) -> Floats:
    return np.array([effects[value] for value in people[column]])  # type: ignore[index]


def _mean_over_extras(score: Floats) -> Floats:
    """The mean probability over the payment methods and risk scores, which are independent of the rest."""

    def share_below(risk: float) -> float:  # of the normal distribution
        return 0.5 * (1 + erf((risk - RISK_MEAN) / (RISK_SPREAD * sqrt(2))))

    edges = [
        0.0,
        *(share_below(risk + 0.5) for risk in range(100)),
        1.0,
    ]  # a score is rounded, and clipped to 0..100
    mean = np.zeros(len(score))
    for share, effect in PAYMENTS.values():
        for risk, weight in enumerate(np.diff(edges)):
            mean += share * weight * _sigmoid(score + effect + RISK_EFFECT * (risk - RISK_MEAN))
    return mean


def _sigmoid(score: Floats) -> Floats:
    return 1 / (1 + np.exp(-score))


def _as_text(column: pl.Series) -> pl.Series:
    """The column as the export writes it: Yes and No, two decimals, and a space where there is no number."""
    if column.dtype == pl.Boolean:
        return column.cast(pl.Int8).replace_strict([0, 1], ["No", "Yes"], return_dtype=pl.String)
    if column.dtype == pl.Float64:
        return pl.Series([" " if value is None else f"{value:.2f}" for value in column])
    return column.cast(pl.String)


def roc_auc(labels: NDArray[np.bool_], scores: Floats) -> float:
    """The probability that a positive scores above a negative; ties count half (Mann-Whitney)."""
    ranks = pl.Series(scores).rank("average").to_numpy()
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", type=int, choices=sorted(COLUMNS), default=1)
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="how many version 3 has")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    generated = generate(arguments.version, arguments.customers, arguments.seed)
    folder = HERE / "data"
    folder.mkdir(exist_ok=True)
    generated.customers.write_csv(folder / "customers.csv")
    generated.truth.write_parquet(folder / "truth.parquet")
    known = generated.truth.filter(~pl.col("is_current"))
    print(
        json.dumps(
            {
                "customers": len(generated.customers),
                "columns": generated.customers.columns,
                "known": len(known),
                "churned": int(known["is_churned"].sum()),
                "best_auc": round(generated.best_auc, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
