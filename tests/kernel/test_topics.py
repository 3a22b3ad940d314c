"""The stored names of system topics: no two projects and topics have one, nor two that Kafka takes for one."""

from __future__ import annotations

from itertools import product

from headrace.kernel.topics import find_topic, stored_name

PROJECTS = ("a", "a_b", "a_model", "a_", "forward", "a_forward", "headrace", "releases")
TOPICS = (
    "headrace.alerts",
    "headrace.forward.8f14e45fceea167a5a36dedd4bea2543",
    "headrace.model_sets",
    "headrace.predictions",
    "headrace.releases",
)


def test_a_stored_name_has_one_project_and_one_topic() -> None:
    assert stored_name("headrace.releases", "shop") == "headrace.shop.releases"
    stored = {stored_name(topic, project): (topic, project) for topic, project in product(TOPICS, PROJECTS)}
    assert len(stored) == len({name.replace(".", "_") for name in stored}) == len(TOPICS) * len(PROJECTS)
    for name, (topic, owner) in stored.items():
        assert [find_topic(name, project) for project in PROJECTS] == [
            topic if project == owner else None for project in PROJECTS
        ]


def test_the_topics_of_events_keep_their_names() -> None:
    for topic in ("clicks", "shop.public.rows", "headrace", "headraces.releases"):
        assert (stored_name(topic, "shop"), find_topic(topic, "shop")) == (topic, topic)
