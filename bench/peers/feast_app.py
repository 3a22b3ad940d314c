"""An application that asks Feast's feature server for the features of a request and predicts from them:

python feast_app.py FEAST_URL BOOSTER PORT
"""

from __future__ import annotations

import json
import sys

import httpx
import numpy as np
import uvicorn
import xgboost

NAMES = [f"f{n}" for n in range(6)]


def main() -> None:
    feast_url, booster, port = sys.argv[1:]
    model = xgboost.Booster({"nthread": 1}, model_file=booster)
    client = httpx.AsyncClient(base_url=feast_url)
    features = [f"facts:{name}" for name in NAMES]

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] == "lifespan":
            while True:
                await send({"type": f"{(await receive())['type']}.complete"})
        instance = json.loads((await receive())["body"])
        question = {"features": features, "entities": {"product_id": [instance["product_id"]]}}
        answer = (await client.post("/get-online-features", json=question)).json()
        names, results = answer["metadata"]["feature_names"], answer["results"]
        row = {name: result["values"][0] for name, result in zip(names, results, strict=True)}
        matrix = np.array([[row[name] for name in NAMES]], np.float32)
        body = json.dumps({"value": float(model.inplace_predict(matrix)[0])}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
