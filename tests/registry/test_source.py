import os
import tarfile
from pathlib import Path

from headrace.config.settings import Settings
from headrace.registry.source import write_source


def names(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def fill(root: Path) -> None:
    for name in (
        "shop/tables.py", "shop/sub/more.py", "shop/.env", "shop/private.key", "shop/__pycache__/x.pyc",
        "pointers/tables/clean.json", "dvc.yaml", "dvc.lock", "requirements.txt", ".env", "id_rsa",
        "data/rows.csv", ".headrace/local/signing.key", "notes.txt",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "shop" / "linked.py").symlink_to("/etc/hostname")


def test_it_holds_the_code_lock_and_pointers_and_no_secret(settings: Settings, tmp_path: Path) -> None:
    fill(settings.root)
    write_source(settings, tmp_path / "source.tar.gz")
    assert names(tmp_path / "source.tar.gz") == [
        "dvc.lock", "dvc.yaml", "headrace.toml", "pointers/tables/clean.json", "requirements.txt",
        "shop/__init__.py", "shop/sub/more.py", "shop/tables.py",
    ]  # fmt: skip


def test_the_same_files_give_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    fill(settings.root)
    write_source(settings, tmp_path / "one.tar.gz")
    os.utime(settings.root / "shop" / "tables.py", (1, 1))
    (settings.root / "shop" / "tables.py").chmod(0o600)
    write_source(settings, tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    (settings.root / "shop" / "tables.py").write_text("changed")
    write_source(settings, tmp_path / "three.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() != (tmp_path / "three.tar.gz").read_bytes()
