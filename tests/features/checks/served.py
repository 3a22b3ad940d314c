"""Predictions of a lookup, as the prediction log has them."""

from headrace.features.checks.recompute import ServedPrediction


def serve_requests(lookup, at):
    """Predictions for seven users, one of them unknown."""
    requests = [{"user": user, "price": 3.0 + user} for user in range(7)]
    answers = lookup.features(requests, at)
    return [
        ServedPrediction(
            f"{at}-{request['user']}",
            at,
            {"user": request["user"]},
            dict(zip(lookup.columns, values, strict=True)),
            positions,
            {"price": request["price"]},
        )
        for request, values, positions in zip(requests, answers.values, answers.positions, strict=True)
    ]
