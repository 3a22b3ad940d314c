"""Bundles: what is sealed verifies, and whatever differs is refused by name."""

import json
import os
from pathlib import Path

import pytest

from headrace.kernel.errors import CallError, Refused
from headrace.registry.bundle import MANIFEST, is_sealed, seal, verify

KEY = b"a key"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "model").mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    (folder / "model" / "model.ubj").write_bytes(b"\x00\x01")
    return folder


def test_a_sealed_bundle_verifies_and_its_digest_depends_on_its_files(bundle: Path) -> None:
    assert not is_sealed(bundle)
    digest = seal(bundle, KEY)
    assert is_sealed(bundle)
    assert verify(bundle, KEY).digest == digest
    assert set(verify(bundle, KEY).files) == {"plan.json", "model/model.ubj"}
    assert seal(bundle, KEY) == digest
    (bundle / "plan.json").write_text("{ }")
    assert seal(bundle, KEY) != digest


@pytest.mark.parametrize("name", ["plan.json", "model/model.ubj"])
def test_a_changed_file_is_refused_by_name(bundle: Path, name: str) -> None:
    seal(bundle, KEY)
    (bundle / name).write_bytes(b"other")
    with pytest.raises(Refused, match=f"'{name}' was changed"):
        verify(bundle, KEY)


def test_a_missing_and_an_added_file_are_refused_by_name(bundle: Path) -> None:
    seal(bundle, KEY)
    (bundle / "model" / "extra.py").write_text("")
    with pytest.raises(Refused, match=r"'model/extra.py' is not in the manifest"):
        verify(bundle, KEY)
    (bundle / "model" / "extra.py").unlink()
    (bundle / "plan.json").unlink()
    with pytest.raises(Refused, match=r"'plan.json' is missing"):
        verify(bundle, KEY)


def test_an_unsigned_or_foreign_bundle_needs_trust_but_its_files_must_still_fit(bundle: Path) -> None:
    for key in (None, b"another key"):
        seal(bundle, key)
        with pytest.raises(Refused, match="not signed" if key is None else "another key"):
            verify(bundle, KEY)
        verify(bundle, KEY, trusted=True)
    (bundle / "plan.json").write_text("changed")
    with pytest.raises(Refused, match=r"'plan.json' was changed"):
        verify(bundle, KEY, trusted=True)


def test_a_manifest_changed_with_its_file_is_refused(bundle: Path) -> None:
    """Whoever can write the folder but has no key can't make another bundle of it."""
    seal(bundle, KEY)
    signature = json.loads((bundle / MANIFEST).read_text())["hmac"]
    (bundle / "plan.json").write_text("changed")
    seal(bundle, None)
    forged = json.loads((bundle / MANIFEST).read_text()) | {"hmac": signature}
    (bundle / MANIFEST).write_text(json.dumps(forged))
    with pytest.raises(Refused, match="another key"):
        verify(bundle, KEY)
    kept = forged | {"digest": "0" * 64}
    (bundle / MANIFEST).write_text(json.dumps(kept))
    with pytest.raises(Refused, match="digest does not match its list"):
        verify(bundle, KEY)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "model/../../outside"])
def test_a_manifest_can_name_no_file_outside(bundle: Path, name: str) -> None:
    seal(bundle, KEY)
    (bundle.parent / "outside").write_text("secret")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = "0" * 64
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="is missing"):
        verify(bundle, KEY, trusted=True)


def test_links_are_refused_when_sealing_and_when_reading(bundle: Path) -> None:
    seal(bundle, KEY)
    (bundle / "plan.json").rename(bundle.parent / "elsewhere")
    (bundle / "plan.json").symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(Refused, match="link or a device"):
        verify(bundle, KEY)
    with pytest.raises(Refused, match="link or a device"):
        seal(bundle, KEY)
    (bundle / "plan.json").unlink()
    os.symlink(bundle.parent, bundle / "folder")
    with pytest.raises(Refused, match="link or a device"):
        verify(bundle, KEY)


def test_a_folder_without_a_readable_manifest_is_an_error(bundle: Path) -> None:
    with pytest.raises(CallError):
        verify(bundle, KEY)
    (bundle / MANIFEST).write_text("{")
    with pytest.raises(Refused, match="cannot be read"):
        verify(bundle, KEY)
