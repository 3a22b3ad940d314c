"""The source archive: which files it has, and that the same files give the same bytes."""

import os
import tarfile
from pathlib import Path

from headrace.config.settings import Settings
from headrace.registry.source import write_source

CODE = ("shop/tables.py", "shop/sub/more.py")
KEPT = (*CODE, "pointers/tables/clean.json", "dvc.yaml", "dvc.lock", "requirements.txt")
SECRETS = ("shop/.env", "shop/private.key", ".env", "id_rsa", ".headrace/local/signing.key")
LEFT_OUT = (*SECRETS, "shop/__pycache__/x.pyc", "data/rows.csv", "notes.txt")


def names(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def write_files(root: Path) -> None:
    for name in (*KEPT, *LEFT_OUT):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "shop" / "linked.py").symlink_to("/etc/hostname")


def test_an_archive_has_code_lock_and_pointers_and_no_secret(settings: Settings, tmp_path: Path) -> None:
    write_files(settings.root)
    write_source(settings, tmp_path / "source.tar.gz")
    assert names(tmp_path / "source.tar.gz") == sorted([*KEPT, "headrace.toml", "shop/__init__.py"])


def test_the_same_files_give_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    write_files(settings.root)
    write_source(settings, tmp_path / "first.tar.gz")
    os.utime(settings.root / "shop" / "tables.py", (1, 1))
    (settings.root / "shop" / "tables.py").chmod(0o600)
    write_source(settings, tmp_path / "second.tar.gz")
    assert (tmp_path / "first.tar.gz").read_bytes() == (tmp_path / "second.tar.gz").read_bytes()
    (settings.root / "shop" / "tables.py").write_text("changed")
    write_source(settings, tmp_path / "third.tar.gz")
    assert (tmp_path / "first.tar.gz").read_bytes() != (tmp_path / "third.tar.gz").read_bytes()
