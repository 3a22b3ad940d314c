"""Each optional package belongs to an extra of the project's metadata, and is asked for by one sentence."""

from __future__ import annotations

from importlib.metadata import metadata, requires

from headrace.kernel.extras import EXTRAS, describe_missing, is_installed

DISTRIBUTIONS = {  # where the import name is not the package's
    "adbc_driver_manager": "adbc-driver-manager",
    "confluent_kafka": "confluent-kafka",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}


def test_every_optional_package_is_in_its_extra() -> None:
    assert set(EXTRAS.values()) == set(metadata("headrace").get_all("Provides-Extra") or ())
    lines = [line.replace('"', "'") for line in requires("headrace") or ()]
    for package, extra in EXTRAS.items():
        name = DISTRIBUTIONS.get(package, package)
        assert any(line.startswith(name) and f"extra == '{extra}'" in line for line in lines), package


def test_a_missing_package_is_named_with_its_extra() -> None:
    error = describe_missing("fastavro", "a contract with format='avro'")
    assert str(error) == (
        "a contract with format='avro' needs the package fastavro, which is not installed\n"
        "  Install it: pip install 'headrace[kafka]'"
    )


def test_installed_packages_are_found_without_import() -> None:
    assert is_installed("msgspec")
    assert not is_installed("no_package_has_this_name")
