"""Which files of tests take longest."""

from __future__ import annotations

__all__ = ["LONGEST"]

LONGEST = (
    "serving/test_hostile_requests.py",
    "faults/test_exactly_once.py",
    "docs/test_guide.py",
    "e2e/test_readmes.py",
    "docs/test_tutorial.py",
    "e2e/test_demo_multi_python.py",
    "contract/test_deployment.py",
    "e2e/test_demo_churn.py",
    "e2e/test_demo_iris.py",
    "cli/test_main.py",
    "flows/test_whole_build.py",
    "docs/test_notebooks.py",
    "serving/test_faults.py",
    "flows/test_build.py",
    "events/ingest/test_forward.py",
    "tables/test_steps.py",
    "tables/test_grains.py",
    "e2e/test_demo_shop.py",
    "export/test_airflow_runs.py",
    "e2e/test_changes.py",
    "events/verdicts/test_identities.py",
    "test_house.py",
    "docs/test_readme.py",
    "e2e/test_demo_sales.py",
    "flows/test_code_that_changed.py",
    "contract/test_remote_ray.py",
)
"""The longest first."""
