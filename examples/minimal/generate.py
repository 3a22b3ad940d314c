"""Writes ten days of payments. The payments of a stolen card are large, and most are refused."""

import json
import random
from datetime import datetime, timedelta

draw = random.Random(7)
start = datetime.fromisoformat("2026-03-01T00:00:00Z")
stolen = {(draw.randrange(400), draw.randrange(10)) for _ in range(300)}  # (card, day)
with open("payments.ndjson", "w") as file:
    for number in range(20_000):
        paid_at = start + timedelta(days=10) * number / 20_000
        card = draw.randrange(400)
        is_stolen = (card, (paid_at - start).days) in stolen
        amount = round(draw.lognormvariate(4 if is_stolen else 3, 0.8), 2)
        is_refused = draw.random() < (0.7 if is_stolen else 0.02)
        payment = {"payment": f"p{number}", "paid_at": paid_at.isoformat(), "card": card}
        print(json.dumps({**payment, "amount": amount, "is_refused": is_refused}), file=file)
