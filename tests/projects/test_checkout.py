import subprocess
from pathlib import Path

import pytest

from headrace.config.settings import Settings, load_settings
from headrace.projects.checkout import commit_of, find_checkout


def project(root: Path) -> Settings:
    (root / "shop").mkdir(parents=True)
    (root / "headrace.toml").write_text('[project]\nname = "shop"\n')
    (root / "shop" / "__init__.py").write_text("")
    return load_settings(root)


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    out = subprocess.run(
        ["git", "-C", str(root), *who, *arguments], check=True, capture_output=True, text=True, timeout=300
    )
    return out.stdout.strip()


def test_the_commit_and_whether_the_code_differs_from_it(tmp_path: Path) -> None:
    settings = project(tmp_path / "project")
    assert commit_of(settings) is None
    git(settings.root, "init", "-q")
    assert commit_of(settings) is None  # no commit yet
    git(settings.root, "add", "-A")
    git(settings.root, "commit", "-qm", "first")
    head = git(settings.root, "rev-parse", "HEAD")
    assert commit_of(settings) == head

    (settings.root / "pointers").mkdir()
    (settings.root / "pointers" / "code.json").write_text("{}")  # what a build writes is no edit
    assert commit_of(settings) == head
    (settings.root / "shop" / "new.py").write_text("")
    assert commit_of(settings) == f"{head}-dirty"
    (settings.root / "shop" / "new.py").unlink()
    (settings.root / "headrace.toml").write_text('[project]\nname = "shop"\n\n')
    assert commit_of(settings) == f"{head}-dirty"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ghp_s3cr3t@git.example/team/repo.git", "https://git.example/team/repo.git"),
        ("https://anna:s3@cr3t@git.example:8443/team/repo", "https://git.example:8443/team/repo"),
        ("ssh://git@git.example:22/team/repo", "ssh://git@git.example:22/team/repo"),
        ("git@git.example:team/repo.git", "git@git.example:team/repo.git"),
    ],
)
def test_the_remote_address_has_no_token(tmp_path: Path, address: str, shown: str) -> None:
    settings = project(tmp_path / "project")
    git(settings.root, "init", "-q")
    git(settings.root, "remote", "add", "origin", address)
    git(settings.root, "commit", "-qm", "first", "--allow-empty")
    checkout = find_checkout(settings.root)
    assert checkout is not None
    assert checkout.remote == shown
