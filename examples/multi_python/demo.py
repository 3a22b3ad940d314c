"""The demo of multi_python: models that other people trained, each served on its own Python.

    headrace demo multi_python

Each person trains in an environment of their own and logs to one MLflow. Then the project serves what they
registered. Each step is a command of the command line, called in Python by the same name.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import headrace

NEEDS_RAY = False  # before `up` nothing runs on Ray
FILE = "models.yaml"
EXPERIMENT = "iris"
DEADLINE = 180.0  # seconds that the demo waits for something before it fails
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@dataclass(frozen=True)
class Person:
    """Somebody who trains a model.

    Attributes:
        model: the model's registered name.
        python: the Python that they use.
        requirements: the file of what they install.
        tags: the tags that they give the version.
    """

    model: str
    python: str
    requirements: str
    tags: dict[str, str]


PEOPLE = {
    "newest": Person(
        "iris_catboost12_py312",
        "3.12",
        "newest.txt",
        {
            "ray.num_replicas": "1",
            "ray.ray_actor_options.num_cpus": "0.5",
            "ray.ray_actor_options.memory": "0.5",
            "ray.runtime_env.env_vars": '{"OMP_NUM_THREADS": "1"}',
            "ray.user_config.max_batch_size": "16",
        },
    ),
    "steady": Person(
        "iris_catboost12_py39",
        "3.9",
        "steady.txt",
        {
            "ray.autoscaling_config.min_replicas": "1",
            "ray.autoscaling_config.max_replicas": "2",
            "ray.autoscaling_config.target_ongoing_requests": "8",
        },
    ),
    "old": Person("iris_catboost11_py39", "3.9", "old.txt", {}),
}
"""The name in the model's paths (tag ray.name) → who trains it."""
BROKEN = Person("iris_broken", "", "old.txt", {})
ABSENT = "catboost==99"  # a requirement that does not exist


@dataclass
class Trained:
    """What was trained: name → the answers that the model gave its owner for the test rows."""

    answers: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.answers)


def run(demo: headrace.Demo) -> None:
    """Goes from three people's models to answers, through a killed process, a bad model and a rollback."""
    people = find_pythons(demo)
    with mlflow_server(demo) as address:
        trained = train(demo, address, people)
        deploy(demo)
        with demo.up() as up:
            ask(demo, up.predict, trained)
            refuse(demo, up.predict, trained.names)
            kill(demo, up.predict, trained.names)
            change(demo, up.predict, address, people, trained)


def find_pythons(demo: headrace.Demo) -> dict[str, Path]:
    """Name → the Python of its person. People whose Python is not on this machine are left out."""
    pythons = {}
    with demo.step("pythons") as step:
        for name, person in PEOPLE.items():
            try:
                pythons[name] = headrace.find_interpreter(person.python).path
            except headrace.Refused as refused:
                demo.report.notes.append(f"{name} was skipped: {refused.what}.")
        if not pythons:
            raise headrace.HeadraceError(
                "none of the Pythons is on this machine", remedy="Install 3.12 or 3.9."
            )
        step.rows = len(pythons)
        step.what = ", ".join(f"{name}: {PEOPLE[name].python}" for name in pythons)
    return pythons


@contextmanager
def mlflow_server(demo: headrace.Demo) -> Iterator[str]:
    """An MLflow server on the project's own store, which the people log to."""
    settings = demo.project.settings
    artifacts = settings.make_state() / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", settings.registry.mlflow_url, "--workers", "1"]
    command += ["--default-artifact-root", artifacts.as_uri(), "--no-serve-artifacts"]
    with demo.step("mlflow", f"a server at {address}"):
        log = (settings.state / "mlflow" / "server.log").open("wb")
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=settings.state, env=environment, start_new_session=True
        )
        await_answer(f"{address}/health", server)
    try:
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        log.close()


def await_answer(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise headrace.HeadraceError("the MLflow server does not start", where=url)


def train(demo: headrace.Demo, address: str, pythons: dict[str, Path]) -> Trained:
    """Everybody trains at the same time. The first time, uv makes their environments and keeps them."""
    # MLflow's client makes a missing experiment, and fails if another has made it meanwhile.
    httpx.post(f"{address}/api/2.0/mlflow/experiments/create", json={"name": EXPERIMENT}).raise_for_status()
    with demo.step("train") as step, ThreadPoolExecutor(len(pythons)) as pool:
        results = dict(
            zip(
                pythons,
                pool.map(lambda name: train_model(demo, address, name, pythons[name], PEOPLE[name]), pythons),
                strict=True,
            )
        )
        step.rows = len(results)
        step.what = "; ".join(f"{PEOPLE[name].model} on Python {PEOPLE[name].python}" for name in results)
    return Trained({name: result["answers"] for name, result in results.items()})


def train_model(
    demo: headrace.Demo, address: str, name: str, python: Path, person: Person, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs people/train.py on a person's Python, in an environment with what they install."""
    folder = demo.folder / "people"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        sys.executable,
        "-m",
        "uv",
        "run",
        "--no-project",
        "--no-build",
        "--quiet",
        "--python",
        str(python),
    ]
    command += [
        "--with-requirements",
        str(folder / person.requirements),
        str(folder / "train.py"),
        person.model,
    ]
    command += [json.dumps({"ray.name": name, **person.tags}), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise headrace.HeadraceError(f"{person.model} was not trained: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def deploy(demo: headrace.Demo) -> None:
    with demo.step("deploy --dry-run") as step:
        plan = demo.project.deploy(FILE, dry_run=True)
        step.what = describe(plan)
    with demo.step("deploy") as step:
        report = demo.project.deploy(FILE)
        step.rows, step.what = len(report.models), describe(report)
    demo.check("the plan was carried out as it was printed", plan.models == report.models)
    demo.check("a second deployment has nothing to do", not demo.project.deploy(FILE).is_recorded)


def describe(report: Any) -> str:
    return ", ".join(f"{model.action} {model.name} {model.version}" for model in report.models)


def test_rows(demo: headrace.Demo) -> list[dict[str, float]]:
    """The rows that people test with: every fifth."""
    lines = (demo.folder / "people" / "iris.csv").read_text().splitlines()[1::5]
    return [dict(zip(COLUMNS, map(float, line.split(",")[:4]), strict=True)) for line in lines]


def ask(demo: headrace.Demo, url: str, trained: Trained) -> None:
    """Asks each model by each protocol for the answers that it gave its owner."""
    rows = test_rows(demo)
    split = {"columns": COLUMNS, "data": [[row[name] for name in COLUMNS] for row in rows]}
    with demo.step("predict") as step:
        for name, expected in trained.answers.items():
            answers = {
                f"/{name}": post(url, f"/{name}", {"data": rows}),
                f"/{name}/invocations": post(url, f"/{name}/invocations", {"dataframe_split": split}),
                f"/v1/models/{name}:predict": post(url, f"/v1/models/{name}:predict", {"instances": rows}),
            }
            values = [body if isinstance(body, list) else body["predictions"] for _, body in answers.values()]
            demo.check(
                f"{name} answers what it answered its owner, at {' and '.join(answers)}",
                all(value == expected for value in values),
            )
        step.rows = len(rows) * 3 * len(trained.answers)
        step.what = f"{len(trained.answers)} models, each by three protocols"
    memory = {model.name: f"{model.memory / 1e6:.0f} MB" for model in demo.project.status().deployed}
    demo.report.notes.append(
        "Memory of each model's process: " + ", ".join(f"{name} {size}" for name, size in memory.items())
    )


def post(url: str, path: str, body: Any) -> tuple[int, Any]:
    response = httpx.post(url + path, json=body, timeout=DEADLINE)
    return response.status_code, response.json()


def refuse(demo: headrace.Demo, url: str, names: list[str]) -> None:
    row = test_rows(demo)[0]
    misspelt = {**row, "petal_lenght": row["petal_length"]}
    with demo.step("wrong column") as step:
        status, body = post(url, f"/{names[0]}", {"data": [misspelt]})
        step.what = f"{status}: {body['error']['message']}"
    demo.check(
        "a wrong column is refused by its name",
        (status, body["error"]["field"]) == (422, "data[0].petal_lenght"),
    )


def kill(demo: headrace.Demo, url: str, names: list[str]) -> None:
    """Kills one model's process: its requests get 503 until it is back, the others are answered."""
    victim, *others = reversed(names)
    row, statuses, other_statuses = test_rows(demo)[0], [], []
    with demo.step("kill") as step:
        start = time.perf_counter()
        os.kill(process_of(demo, victim), signal.SIGKILL)
        while (
            not statuses or statuses[-1] != 200 or 503 not in statuses
        ) and time.perf_counter() - start < DEADLINE:
            statuses.append(post(url, f"/{victim}", {"data": [row]})[0])
            other_statuses += [post(url, f"/{other}", {"data": [row]})[0] for other in others]
        seconds = time.perf_counter() - start
        step.what = (
            f"{victim} was back after {seconds:.1f} s; {len(other_statuses)} requests to the others meanwhile"
        )
    demo.report.facts["back_seconds"] = seconds
    demo.check("a killed model answers 503, then again", set(statuses) == {200, 503} and statuses[-1] == 200)
    demo.check("the others answered every request", set(other_statuses) <= {200})


def process_of(demo: headrace.Demo, name: str) -> int:
    return next(model.pids[0] for model in demo.project.status().deployed if model.name == name)


def change(demo: headrace.Demo, url: str, address: str, pythons: dict[str, Path], trained: Trained) -> None:
    """Deploys a second version beside a model whose requirements do not exist, and goes back."""
    name, row = trained.names[-1], test_rows(demo)[0]
    with demo.step("train again") as step, ThreadPoolExecutor(2) as pool:
        second = pool.submit(train_model, demo, address, name, pythons[name], PEOPLE[name], ["--trees", "1"])
        broken = pool.submit(train_model, demo, address, "broken", pythons[name], BROKEN, ["--require", ABSENT])
        step.what = f"{PEOPLE[name].model} version {second.result()['version']}; {BROKEN.model} needs {ABSENT}"
        broken.result()
    with demo.step("deploy") as step:
        report = demo.project.deploy(FILE)
        step.what = describe(report)
    actions = {model.name: model.action for model in report.models}
    expected = {**dict.fromkeys(trained.names, "unchanged"), name: "changed", "broken": "refused"}
    demo.check("a bad model is refused alone", actions == expected)
    demo.check(
        "the second version answers",
        (version_of(demo, name), post(url, f"/{name}", {"data": [row]})[0]) == (2, 200),
    )
    with demo.step("rollback") as step:
        step.what = describe(demo.project.roll_back_models())
    rows = test_rows(demo)
    demo.check(
        "after the rollback the first version answers",
        version_of(demo, name) == 1 and post(url, f"/{name}", {"data": rows}) == (200, trained.answers[name]),
    )


def version_of(demo: headrace.Demo, name: str) -> int:
    return next(model.version for model in demo.project.status().deployed if model.name == name)
