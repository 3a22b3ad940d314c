"""What to write or to run next in a project that is not whole yet."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.flows.project.freshness import TableStatus, TopicStatus

__all__ = ["find_next_step"]


def find_next_step(
    project: str, topics: Sequence[TopicStatus], tables: Sequence[TableStatus], *, is_running: bool
) -> str | None:
    """A sentence with the file to write or the command to run; None: the project has what it needs.

    Args:
        project: its name, which is the name of its package too.
        topics: the declared topics.
        tables: the tables, declared or not; those of the topics are among them.
        is_running: whether `headrace up` runs, which takes events and ingests them.
    """
    declared = [table for table in tables if table.declared]
    if not declared:
        return f"Nothing is declared yet: say in {project}/events.py what an event is."
    if not is_running and topics and not any(topic.events for topic in topics):
        if not any(table.rows for table in declared):
            name = topics[0].topic if len(topics) == 1 else "TOPIC"
            return f"There are no events yet. To send a file of them: headrace send {name} FILE"
    elif not is_running and any(topic.lag for topic in topics):
        return "Events wait on the log. To ingest them: headrace ingest --until-end"
    if len(declared) == len({topic.table for topic in topics}):
        return f"No table is declared yet: say in {project}/tables.py what is made of the events."
    return None
