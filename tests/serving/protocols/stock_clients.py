"""Asks an endpoint by KServe's and Triton's own clients, in their environment; writes their answers as JSON."""

import asyncio
import json
import sys
from urllib.parse import urlsplit

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from tritonclient import http as triton

TYPES = {"price": ("FP64", np.float64)}  # the others are INT64


def type_of(name):
    return TYPES.get(name, ("INT64", np.int64))


def fill(kind, instances, **binary):
    """The tensors of instances, as objects of a client's class."""
    tensors = []
    for name in instances[0]:
        datatype, dtype = type_of(name)
        tensors.append(kind(name, [len(instances)], datatype))
        tensors[-1].set_data_from_numpy(np.array([row[name] for row in instances], dtype), **binary)
    return tensors


async def ask_kserve(url, instances):
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        v1 = await client.infer(url, {"instances": instances}, model_name="purchase")
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        ready = [
            await client.is_server_live(url),
            await client.is_server_ready(url),
            await client.is_model_ready(url, "purchase"),
        ]
        v2 = []
        for is_binary in (False, True):
            request = InferRequest("purchase", fill(InferInput, instances, binary_data=is_binary))
            answer = await client.infer(url, request, model_name="purchase")
            v2.append(read(answer.outputs))
    return {"v1": v1["predictions"], "ready": ready, "v2": v2}


def read(outputs):
    return next(output.as_numpy().tolist() for output in outputs if output.name == "predictions")


def ask_triton(url, instances):
    client = triton.InferenceServerClient(urlsplit(url).netloc)
    ready = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("purchase", "1")]
    metadata = client.get_model_metadata("purchase")
    answers = []
    for is_binary in (False, True):
        inputs = fill(triton.InferInput, instances, binary_data=is_binary)
        for version in ("", "1"):
            answer = client.infer("purchase", inputs, model_version=version)
            answers.append(answer.as_numpy("predictions").tolist())
    client.close()
    return {"v2": answers, "ready": ready, "inputs": [tensor["name"] for tensor in metadata["inputs"]]}


def main():
    url, instances = sys.argv[1], json.loads(sys.argv[2])
    answers = {"kserve": asyncio.run(ask_kserve(url, instances)), "triton": ask_triton(url, instances)}
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
