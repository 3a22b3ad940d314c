"""Generates a week of a shop's events from a seed, some of them broken as in a real shop.

    python generate.py --events 200000 --seed 7

writes data/events.ndjson (the events that the shop's site would send, in the order of arrival) and
data/truth.parquet (the true probability of each label, which nobody knows in a real shop). The
probability that a customer buys depends on how many products the customer has looked at within the
hour and the day, on the price relative to the product's usual one, and on how long customers think in
that department. The rest is chance, so the best ROC AUC that any model can reach is known.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

DAYS = 7
PRODUCTS = 600
BROKEN = 0.10  # of all events
LATE = 0.02  # of the good events: they arrive minutes to hours after they happened
CART_IF_BOUGHT, CART_IF_NOT = 0.75, 0.12
HERE = Path(__file__).parent
KINDS = (
    "wrong type",
    "missing field",
    "price -100",
    "unknown event_type",
    "not JSON",
    "duplicate",
)
BRANDS = ("aqua", "bosch", "casio", "lego", "nike", "philips", "samsung", "sony", "tefal", "")


@dataclass(frozen=True)
class Generated:
    """The generated events and labels.

    Attributes:
        lines: the events as sent, one JSON text each (invalid JSON for some of the broken ones).
        truth: one row per label: user_id, user_session, product_id, event_timestamp, event_type,
            probability, is_purchased.
        broken: kind of fault → how many lines have it.
        best_auc: the ROC AUC of the true probabilities over all labels.
    """

    lines: list[bytes]
    truth: pl.DataFrame
    broken: dict[str, int]
    best_auc: float


def generate(events: int, seed: int, end: datetime) -> Generated:
    """Generates `events` lines of the week before `end`. The same seed and end give the same lines."""
    rng = np.random.default_rng(seed)
    broken = round(events * BROKEN)
    visits = _visits(rng, events - broken, end)
    good = _events(visits, events - broken)
    lines = _lines(rng, good)
    arrival = good["at"].to_numpy().copy()
    late = rng.random(len(arrival)) < LATE
    arrival[late] += rng.integers(60_000, 6 * 3_600_000, late.sum())
    broken_lines, kinds, broken_at = _broken_lines(rng, lines, arrival, broken)
    order = np.argsort(np.concatenate([arrival, broken_at]), kind="stable")
    all_lines = lines + broken_lines
    truth = _truth(good)
    return Generated(
        lines=[all_lines[i] for i in order],
        truth=truth,
        broken={kind: kinds.count(kind) for kind in KINDS},
        best_auc=roc_auc(truth["is_purchased"].to_numpy(), truth["probability"].to_numpy()),
    )


def _visits(rng: np.random.Generator, events: int, end: datetime) -> pl.DataFrame:
    """One row per view of a product: its time in ms since 1970, and whether it is carted and bought."""
    sessions = round(events / 5.4)  # a session looks at 1 to 12 products; some are carted, a few bought
    end_ms = int(end.timestamp() * 1000)
    starts = np.sort(rng.uniform(end_ms - DAYS * 86_400_000, end_ms, sessions)).astype(np.int64)
    users = rng.integers(0, max(50, sessions // 6), sessions) + 500_000_000
    lengths = np.minimum(rng.geometric(0.25, sessions), 12)
    session = np.repeat(np.arange(sessions), lengths)
    gaps = rng.integers(20_000, 180_000, len(session))
    before = np.cumsum(gaps) - gaps
    first = np.cumsum(lengths) - lengths
    at = np.repeat(starts, lengths) + before - np.repeat(before[first], lengths)

    departments = pl.read_csv(HERE / "data" / "departments.csv")
    usual = np.exp(rng.normal(4.0, 1.0, PRODUCTS)).clip(2, 2000)
    department = rng.integers(0, departments.height, PRODUCTS)
    popularity = 1 / (np.arange(PRODUCTS) + 60)
    product = rng.choice(PRODUCTS, len(session), p=popularity / popularity.sum())
    ratio = np.exp(rng.normal(0, 0.15, len(session)))
    visits = pl.DataFrame(
        {
            "session": session,
            "user_id": users[session],
            "at": at,
            "product": product,
            "price": np.round(usual[product] * ratio, 2).clip(0.5),
            "ratio": ratio,
            "department": departments["department"].gather(department[product]),
            "consideration": departments["consideration"].gather(department[product]),
        }
    )
    visits = visits.filter(pl.col("at") <= end_ms).unique(
        ["session", "product"], keep="first", maintain_order=True
    )
    hour, day = (_views_before(visits, span) for span in (3_600_000, 86_400_000))
    score = (
        -3.1
        - 7.0 * np.log(visits["ratio"].to_numpy())
        + 0.8 * np.log1p(hour)
        + 0.3 * np.log1p(day)
        - 2.4 * (visits["consideration"].to_numpy() - 0.5)
    )
    chance = 1 / (1 + np.exp(-score))
    bought = rng.random(len(chance)) < chance
    carted = rng.random(len(chance)) < np.where(bought, CART_IF_BOUGHT, CART_IF_NOT)
    return visits.with_columns(
        chance=chance,
        bought=bought,
        carted=carted,
        cart_at=visits["at"] + pl.Series(rng.integers(10_000, 40_000, len(chance))),
        buy_at=visits["at"] + pl.Series(rng.integers(45_000, 90_000, len(chance))),
    )


def _views_before(visits: pl.DataFrame, span: int) -> np.ndarray:
    """How many products the customer had looked at in the `span` ms before each visit."""
    order = visits.select(pl.arg_sort_by("user_id", "at")).to_series().to_numpy()
    # All customers are put on one axis of time, so far apart that no window reaches another customer.
    line = (
        (visits["user_id"].to_numpy() - 500_000_000) * (1 << 33) + visits["at"].to_numpy() - visits["at"].min()
    )
    line = line[order]
    counts = np.arange(len(line)) - np.searchsorted(line, line - span)
    back = np.empty_like(counts)
    back[order] = counts
    return back


def _events(visits: pl.DataFrame, count: int) -> pl.DataFrame:
    """The latest `count` views, carts and purchases, in the order in which they happened."""
    kinds = [
        visits.with_columns(event_type=pl.lit("view")),
        visits.filter("carted").with_columns(event_type=pl.lit("cart"), at=pl.col("cart_at")),
        visits.filter("bought").with_columns(event_type=pl.lit("purchase"), at=pl.col("buy_at")),
    ]
    end = visits["at"].max()
    return pl.concat(kinds).filter(pl.col("at") <= end).sort("at", maintain_order=True).tail(count)


def _lines(rng: np.random.Generator, good: pl.DataFrame) -> list[bytes]:
    brand = pl.Series(BRANDS).gather(good["product"] % len(BRANDS))
    coded = pl.Series(rng.random(good.height) < 0.9)
    sent = good.select(
        event_time=pl.from_epoch("at", time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        event_type="event_type",
        product_id=pl.col("product") + 1_000_000,
        category_id=pl.col("product") % 97 + 2_053_013_552_326_770_000,
        category_code=pl.when(coded).then(pl.col("department") + ".general"),
        brand=brand,
        price="price",
        user_id="user_id",
        user_session=pl.format("{}-{}", "user_id", "session"),
    )
    return sent.write_ndjson().encode().splitlines()


def _broken_lines(
    rng: np.random.Generator, lines: list[bytes], arrival: np.ndarray, count: int
) -> tuple[list[bytes], list[str], np.ndarray]:
    """Broken lines, the kind of fault of each, and when they arrive."""
    chosen = rng.integers(0, len(lines), count)
    kinds = [KINDS[i] for i in rng.integers(0, len(KINDS), count)]
    broken_lines = [
        _break_line(lines[i], kind, k) for k, (i, kind) in enumerate(zip(chosen, kinds, strict=True))
    ]
    # A duplicate arrives after its original; the other broken lines at about the same time.
    return broken_lines, kinds, arrival[chosen] + rng.integers(1_000, 600_000, count)


def _break_line(line: bytes, kind: str, k: int) -> bytes:
    if kind == "duplicate":
        return line
    if kind == "not JSON":
        return (line[: len(line) // 2], b"<html>502 Bad Gateway</html>", b"\xff\xfe" + line)[k % 3]
    event = json.loads(line)
    if kind == "wrong type":
        event[("product_id", "price", "event_time")[k % 3]] = "twelve"
    elif kind == "missing field":
        del event[("user_id", "event_time", "product_id")[k % 3]]
    elif kind == "price -100":
        event["price"] = -100
    else:
        event["event_type"] = "hover"
    return json.dumps(event).encode()


def _truth(good: pl.DataFrame) -> pl.DataFrame:
    """The labels with their true probability: at a view, and at a cart with what the cart adds."""
    p = pl.col("chance")
    after_cart = p * CART_IF_BOUGHT / (p * CART_IF_BOUGHT + (1 - p) * CART_IF_NOT)
    return good.filter(pl.col("event_type") != "purchase").select(
        "user_id",
        user_session=pl.format("{}-{}", "user_id", "session"),
        product_id=pl.col("product") + 1_000_000,
        event_timestamp=pl.from_epoch("at", time_unit="ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC"),
        event_type="event_type",
        probability=pl.when(pl.col("event_type") == "cart").then(after_cart).otherwise(p),
        is_purchased=pl.col("bought").cast(pl.Int64),
    )


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The probability that a positive scores above a negative; ties count half (Mann-Whitney)."""
    ranks = pl.Series(scores).rank("average").to_numpy()
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--days-ago", type=float, default=0.0, help="the week ends this many days ago")
    arguments = parser.parse_args()
    generated = generate(
        arguments.events, arguments.seed, datetime.now(UTC) - timedelta(days=arguments.days_ago)
    )
    folder = HERE / "data"
    (folder / "events.ndjson").write_bytes(b"\n".join(generated.lines) + b"\n")
    generated.truth.write_parquet(folder / "truth.parquet")
    print(
        json.dumps(
            {
                "events": len(generated.lines),
                "broken": generated.broken,
                "best_auc": round(generated.best_auc, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
