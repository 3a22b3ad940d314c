"""What only the online store in PostgreSQL does: rights, schemas, tables that are left behind."""

from contextlib import closing

import psycopg
import pytest
from tests.features.online.stores import (
    EVENTS,
    PLAN,
    Clock,
    at_offset,
    fill,
    look_up,
    plan_of,
)
from tests.features.views import DAY, HOUR, events_frame, view_of_all_functions

from headrace.features.online.postgres import open_postgres
from headrace.kernel.errors import Unavailable
from headrace.kernel.postgres import schema_of


@pytest.fixture
def project(request):
    return request.node.name.replace("[", "_").replace("]", "")


def test_a_database_that_does_not_exist_is_told(postgres, project):
    store = open_postgres(postgres.url.removesuffix("/postgres") + "/nowhere", project)
    with pytest.raises(Unavailable, match='database "nowhere" does not exist'):
        store.prepare(PLAN)


def test_a_user_without_rights_is_told(postgres, project):
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("drop role if exists visitor")
        admin.execute("create role visitor login")
    with closing(open_postgres(postgres.url.replace("postgres@", "visitor@"), project)) as store:
        assert store.views() == []
        with pytest.raises(Unavailable, match="refuses it: permission denied for database") as caught:
            store.prepare(PLAN)
    assert "administrator" in caught.value.remedy


def test_a_user_who_may_only_read_serves_prepared_views(postgres, project):
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("drop role if exists reader")
        admin.execute("create role reader login")
        with closing(open_postgres(postgres.url, project, clock=Clock())) as store:
            fill(store)
            expected = look_up(store, [1, 5000])
        schema = schema_of(project)
        admin.execute(f"grant usage on schema {schema} to reader")
        admin.execute(f"grant select on all tables in schema {schema} to reader")
    with closing(open_postgres(postgres.url.replace("postgres@", "reader@"), project)) as store:
        store.prepare(PLAN)
        assert look_up(store, [1, 5000]) == expected
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("drop owned by reader")
        admin.execute("drop role reader")


def test_a_long_name_of_a_project_gets_a_schema_of_its_own():
    long = "p" * 80
    names = {schema_of(long), schema_of(f"{long}a"), schema_of("shop")}
    assert len(names) == 3
    assert max(map(len, names)) <= 63
    assert "headrace_shop" in names


def test_a_view_of_an_hour_filled_again_leaves_no_table_behind(postgres, project):
    view = view_of_all_functions((HOUR, DAY))
    with closing(open_postgres(postgres.url, project, clock=Clock())) as store:
        store.prepare(plan_of(view))
        for count in (1, 2, 3):
            store.fill(view, events_frame(EVENTS[:count]).to_arrow(), at_offset(count))
        with psycopg.connect(postgres.url) as admin:
            tables = admin.execute(
                "select tablename from pg_tables where schemaname = %s order by 1", (schema_of(project),)
            ).fetchall()
        assert tables == [(f"v_{view.digest}",), ("views",)]
        store.drop(view.digest)
        with psycopg.connect(postgres.url) as admin:
            count = admin.execute("select count(*) from pg_tables where schemaname = %s", (schema_of(project),))
            assert count.fetchone() == (1,)
