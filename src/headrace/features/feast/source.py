"""TableSource: a table of the lake as a Feast data source."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import feast  # before the filter below, because Feast's own import inserts one in front of it
from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig

from headrace.code.index import CodeIndex
from headrace.declare.changes import CHANGED_AT
from headrace.declare.convert import to_duration
from headrace.declare.event import Contract, contract_of
from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.features.feast.types import arrow_columns, schema_columns, value_type
from headrace.features.offline.rowwise import code_of
from headrace.kernel.errors import ProjectError
from headrace.projects.project import Project

__all__ = ["TableSource", "topics_of"]

# Otherwise every process of a project with a windowed view prints this warning.
warnings.filterwarnings("ignore", "(Stream|Batch) feature views are experimental", RuntimeWarning)

_SECOND = timedelta(seconds=1)
_CLASS = "headrace.features.feast.source.TableSource"


class TableSource(DataSource):  # type: ignore[misc]
    """A table of the lake, or a topic's own table, as the source of feature views.

    Feast keeps it in its registry as a custom source, with all facts that a reader needs, so that stock Feast
    reads it without importing the project.

    Attributes:
        name: the table's name in the lake, which is also the source's.
        timestamp_field: the column with the time from which a row is valid.
        columns: column → the declared dtype; None if nothing is declared.
        field_mapping: column → its name in the views, for columns whose name differs.
        created_timestamp_column: the column that decides between rows of one key and time; "" for none.
        delay: how long after its time a row can be seen by serving; training sees it no earlier.
        rowwise: whether the table is made row by row from a topic.
        topic: for a table whose rows are made one by one from events, their topic; None for any other table.
        topics: every topic that the table is made from, directly or through other tables.
        code: the fingerprint of a rowwise table's function; "" for any other table.
        is_written_by_feast: whether the table is neither a topic's nor made by a function, so that rows may be
            written to it through Feast.
        row_key: for a topic of a database's changes, the primary key of the database's table; else empty.
        is_current: whether the table has the current rows of a database's table.
        place: the place of its declaration; None if it comes from a registry.
    """

    def __init__(
        self,
        table: Any,
        timestamp_field: str | None = None,
        *,
        delay: str | timedelta = timedelta(0),
        field_mapping: Mapping[str, str] | None = None,
        created_timestamp_column: str | None = None,
        **options: Any,
    ) -> None:
        """Makes the source of `table`: a @table function, or the @event class of a topic's own table.

        Args:
            table: the table.
            timestamp_field: its time column. By default the contract's `time`; else `event_timestamp` if the
                schema has it; else the column that the table is partitioned by.
            delay: how long after its time a row reaches serving, because the table is built or the online store
                filled later: text such as `2h`, or a timedelta. An as-of view's training set sees a row only
                from its time plus the delay. A windowed view has none: its events carry the instant from which
                they are known.
            field_mapping: column → its name in the feature views. `timestamp_field` may be either name.
            created_timestamp_column: a column of the table. Of several rows with the same key and time, the one
                with the greatest value counts.
            options: other options of Feast's sources, such as `date_partition_column`; all are refused.

        Raises:
            ProjectError: `table` is neither of these, the time column is unknown or not in the schema, or
                options are given, or the delay is not valid.
        """
        self.place: Place | None = Place.of_caller()
        if options:
            raise ProjectError(
                f"a TableSource does not accept {', '.join(options)}",
                where=str(self.place),
                remedy="Name, convert and choose the columns in the table's function.",
            )
        mapping = dict(field_mapping or {})
        declared = contract_of(table) or table
        if not isinstance(declared, (Table, Contract)):
            raise ProjectError(
                f"TableSource({table!r}): the argument is not a table",
                where=str(self.place),
                remedy="Name a @table function or an @event class.",
            )
        columns = schema_columns(declared)
        reads = declared.reads if isinstance(declared, Table) else (declared,)
        is_from_events = isinstance(declared, Contract) or declared.rowwise
        self._set_facts(
            name=declared.table if isinstance(declared, Contract) else declared.name,
            time=timestamp_field or _time_of(declared, columns, self.place),
            columns=columns,
            mapping=mapping,
            created=created_timestamp_column or "",
            delay=_check_delay(delay, self.place) / _SECOND,
            rowwise=isinstance(declared, Table) and declared.rowwise,
            topic=reads[0].topic if is_from_events and isinstance(reads[0], Contract) else None,
            row_key=declared.row_key if isinstance(declared, Contract) else (),
            current=isinstance(declared, Table) and declared.current,
        )
        self._check_columns()

    def _check_columns(self) -> None:
        if self.columns is None:
            return
        for role, name in (
            ("timestamp_field", self.column(self.timestamp_field)),
            ("created_timestamp_column", self.created_timestamp_column or None),
            *(("field_mapping", column) for column in self.field_mapping),
        ):
            if name is not None and name not in self.columns:
                raise ProjectError(
                    f"{role}={name!r} is not a column of {self.name}",
                    where=str(self.place),
                    remedy=f"Its columns are {', '.join(self.columns)}.",
                )
        mapped = list(self.field_mapping.values())
        if len(set(mapped)) < len(mapped):
            raise ProjectError(
                f"field_mapping of {self.name} gives two columns one name",
                where=str(self.place),
                remedy="Give each column a name of its own.",
            )

    def column(self, name: str) -> str:
        """The table's column that has this name in the views."""
        return next((column for column, mapped in self.field_mapping.items() if mapped == name), name)

    def dtype_of(self, name: str) -> str | None:
        """The declared dtype of a column, by its name in the views; None if the table has no such column or
        declares nothing."""
        return (self.columns or {}).get(self.column(name))

    def _set_facts(
        self,
        *,
        name: str,
        time: str,
        columns: dict[str, str] | None,
        rowwise: bool,
        topic: str | None,
        topics: Sequence[str] = (),
        code: str = "",
        delay: float = 0.0,
        mapping: Mapping[str, str] | None = None,
        created: str = "",
        feast: bool = False,
        row_key: Sequence[str] = (),
        current: bool = False,
    ) -> None:
        mapping = dict(mapping or {})
        super().__init__(
            name=name,
            timestamp_field=mapping.get(time, time),
            field_mapping=mapping,
            created_timestamp_column=created,
        )
        self.columns = columns
        self.delay = timedelta(seconds=delay)
        self.rowwise = rowwise
        self.topic = topic
        self.topics = tuple(topics)
        self.code = code
        self.is_written_by_feast = feast
        self.row_key = tuple(row_key)
        self.is_current = current

    def complete(self, project: Project, index: CodeIndex) -> None:
        """Sets the facts that need the whole project: the topics, and the fingerprint of the function.

        Raises:
            CallError: the project does not have the table.
        """
        declared: Table | Contract
        if self.topic is not None and not self.rowwise:
            declared = project.contract(self.topic)
        else:
            declared = project.table(self.name)
        self.topics = topics_of(project, declared)
        if self.rowwise and isinstance(declared, Table):
            self.code = code_of(project, declared, index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableSource) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash((self.name, self.timestamp_field))

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "time": self.timestamp_field,
            "columns": self.columns,
            "rowwise": self.rowwise,
            "topic": self.topic,
            "topics": list(self.topics),
            "code": self.code,
            "delay": self.delay / _SECOND,
            "mapping": self.field_mapping,
            "created": self.created_timestamp_column,
            "feast": self.is_written_by_feast,
            "row_key": list(self.row_key),
            "current": self.is_current,
        }

    @classmethod
    def of_table(
        cls,
        name: str,
        timestamp_field: str,
        *,
        columns: dict[str, str] | None = None,
        field_mapping: Mapping[str, str] | None = None,
        created_timestamp_column: str | None = None,
    ) -> TableSource:
        """The source of a table that is written through Feast alone. A model cannot have features from it.

        Args:
            name: the table's name in the lake.
            timestamp_field: its time column.
            columns: column → its dtype, as a plan names it; None: those of the table when it is read.
            field_mapping: see `__init__`.
            created_timestamp_column: see `__init__`.
        """
        source = cls.__new__(cls)
        source._set_facts(
            name=name,
            time=timestamp_field,
            columns=columns,
            rowwise=False,
            topic=None,
            mapping=field_mapping,
            created=created_timestamp_column or "",
            feast=True,
        )
        source.place = None
        return source

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> TableSource:
        """The source from its entry in a registry."""
        source = TableSource.__new__(TableSource)
        source._set_facts(**json.loads(data_source.custom_options.configuration))
        source.place = None
        return source

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=_CLASS,
            timestamp_field=self.timestamp_field,
            field_mapping=self.field_mapping,
            created_timestamp_column=self.created_timestamp_column,
            custom_options=DataSourceProto.CustomSourceOptions(
                configuration=json.dumps(self._facts(), sort_keys=True).encode()
            ),
        )

    def source_type(self) -> DataSourceProto.SourceType.ValueType:
        """Feast's type for custom sources."""
        kind: DataSourceProto.SourceType.ValueType = DataSourceProto.CUSTOM_SOURCE
        return kind

    def validate(self, config: RepoConfig) -> None:
        """Does nothing, because the table may not be built yet."""

    def get_table_query_string(self) -> str:
        """The table's name."""
        return str(self.name)

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], feast.ValueType]:
        """The function from a plan's dtype to Feast's value type."""
        return value_type

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """The declared columns and their dtypes; without a declaration, those of the table in the lake.

        Raises:
            CallError: no columns are declared, and the table has not been built.
        """
        if self.columns is not None:
            return self.columns.items()
        from headrace import lake
        from headrace.features.feast.repository import settings_of

        columns = lake.VisibleTables(lake.open(settings_of(config))).scan(self.name).collect_schema()
        return arrow_columns(columns.to_frame().to_arrow().schema).items()


def _check_delay(delay: str | timedelta, place: Place | None) -> timedelta:
    duration = to_duration(delay)
    if duration < timedelta(0):
        remedy = 'Write a duration such as "2h".'
        raise ProjectError(f"TableSource(..., delay={delay!r}) is not valid", where=str(place), remedy=remedy)
    return duration


def _time_of(declared: Table | Contract, columns: dict[str, str] | None, place: Place | None) -> str:
    if isinstance(declared, Contract):
        return declared.time
    if declared.current:
        return CHANGED_AT
    if columns is not None and "event_timestamp" in columns:
        return "event_timestamp"
    if declared.partition_by is not None:
        return declared.partition_by.column
    raise ProjectError(
        f"TableSource({declared.name}): the time column of the table is not known",
        where=str(place),
        remedy=f'Name it: TableSource({declared.name}, timestamp_field="...").',
    )


def topics_of(project: Project, declared: Table | Contract) -> tuple[str, ...]:
    """The topics that a table is made from, directly or through other tables, in order of name."""
    if isinstance(declared, Contract):
        return (declared.topic,)
    inputs = [value for value in project.inputs(declared) if isinstance(value, (Table, Contract))]
    return tuple(sorted({topic for value in inputs for topic in topics_of(project, value)}))
