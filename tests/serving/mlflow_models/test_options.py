"""Options: each tag is read as its users know it, and a wrong one is named with what it should be."""

from __future__ import annotations

import pytest

from headrace.kernel.errors import Refused
from headrace.serving.mlflow_models.options import Autoscaling, ServingOptions, read_options


def test_without_tags_a_model_has_its_own_name_and_the_defaults() -> None:
    assert read_options("iris", {"team": "a", "mlflow.x": "y"}) == ServingOptions(
        "iris", 1, 0.0, 0, {}, None, 1
    )


def test_every_tag_is_read() -> None:
    tags = {
        "ray.name": "flowers",
        "ray.num_replicas": " 3 ",
        "ray.ray_actor_options.num_cpus": "0.5",
        "ray.ray_actor_options.memory": "1.5",
        "ray.runtime_env.env_vars": '{"A": "1", "B": "ü="}',
        "ray.user_config.max_batch_size": "16",
    }
    expected = ServingOptions("flowers", 3, 0.5, 1_500_000_000, {"A": "1", "B": "ü="}, None, 16)
    assert read_options("iris", tags) == expected


def test_scaling_takes_the_place_of_a_number() -> None:
    tags = {
        "ray.autoscaling_config.min_replicas": "0",
        "ray.autoscaling_config.max_replicas": "4",
        "ray.autoscaling_config.target_ongoing_requests": "2.5",
    }
    assert read_options("iris", tags).autoscaling == Autoscaling(0, 4, 2.5)
    assert read_options("iris", {"ray.autoscaling_config.max_replicas": "4"}).autoscaling == Autoscaling(
        1, 4, 2.0
    )


@pytest.mark.parametrize(
    ("tag", "value", "rule"),
    [
        ("num_replicas", "x", "a whole number from 1 to 1,000"),
        ("num_replicas", "0", "a whole number from 1 to 1,000"),
        ("num_replicas", "1.5", "a whole number from 1 to 1,000"),
        ("num_replicas", "", "a whole number from 1 to 1,000"),
        ("num_replicas", "1" * 5_000, "a whole number from 1 to 1,000"),
        ("ray_actor_options.num_cpus", "-1", "a number from 0 to 1,000"),
        ("ray_actor_options.num_cpus", "nan", "a number from 0 to 1,000"),
        ("ray_actor_options.num_cpus", "inf", "a number from 0 to 1,000"),
        ("ray_actor_options.memory", "0", "a number of GB from 0.001 to 100,000, such as 0.5"),
        ("ray_actor_options.num_cpus", "1e-9", "a number from 0 to 1,000 with at most 4 decimals"),
        ("ray_actor_options.memory", "1e-12", "a number of GB from 0.001 to 100,000, such as 0.5"),
        ("ray_actor_options.memory", "2GB", "a number of GB from 0.001 to 100,000, such as 0.5"),
        ("runtime_env.env_vars", "A=1", "a JSON object of texts"),
        ("runtime_env.env_vars", '{"A": 1}', "a JSON object of texts"),
        ("runtime_env.env_vars", '{"A=B": "1"}', "a JSON object of texts"),
        ("runtime_env.env_vars", '{"A": "\\u0000"}', "a JSON object of texts"),
        ("runtime_env.env_vars", "[" * 100_000, "a JSON object of texts"),
        ("autoscaling_config.max_replicas", "0", "a whole number from 1 to 1,000"),
        ("autoscaling_config.target_ongoing_requests", "0", "a number above 0"),
        ("user_config.max_batch_size", "many", "a whole number from 1 to 1,000"),
        ("name", "a/b", "letters, digits"),
        ("name", "", "letters, digits"),
        ("name", "..", "letters, digits"),
        ("name", "é", "letters, digits"),
    ],
)
def test_a_wrong_tag_is_named_with_what_it_should_be(tag: str, value: str, rule: str) -> None:
    with pytest.raises(Refused) as caught:
        read_options("iris", {f"ray.{tag}": value})
    assert caught.value.where == "model iris"
    assert f"tag ray.{tag} is " in caught.value.what
    assert f"it should be {rule}" in caught.value.what
    assert len(caught.value.what) < 500


def test_every_wrong_tag_is_named_at_once() -> None:
    with pytest.raises(Refused) as caught:
        read_options("iris", {"ray.num_replica": "2", "ray.num_replicas": "x"})
    assert caught.value.what == (
        "tag ray.num_replica is not known; did you mean ray.num_replicas?;"
        " tag ray.num_replicas is 'x'; it should be a whole number from 1 to 1,000"
    )


def test_tags_that_contradict_each_other_are_refused() -> None:
    both = {"ray.num_replicas": "2", "ray.autoscaling_config.max_replicas": "3"}
    with pytest.raises(Refused, match="exclude each other"):
        read_options("iris", both)
    bounds = {"ray.autoscaling_config.min_replicas": "5", "ray.autoscaling_config.max_replicas": "3"}
    with pytest.raises(Refused, match="min_replicas is 5; it should be at most max_replicas, which is 3"):
        read_options("iris", bounds)


def test_a_registered_name_that_is_not_a_name_in_a_path_needs_a_tag() -> None:
    with pytest.raises(Refused, match=r"'my model' is not a valid name in a path; tag ray\.name should be"):
        read_options("my model", {})
    assert read_options("my model", {"ray.name": "mine"}).name == "mine"
