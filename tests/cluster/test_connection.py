"""The project's Ray is found by its address as long as the process that started it lives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from headrace.cluster.address import find_address, forget_address, keep_address
from headrace.cluster.connection import connect
from headrace.cluster.folder import remove_dead_sessions, remove_unused_folders, runtime_folder
from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.process import mark_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "headrace.toml").write_text('[project]\nname = "lean"\n[profile.local]\n')
    settings = load_settings(tmp_path)
    settings.make_state()
    return settings


def run_process_to_its_end() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_an_address_is_found_while_its_starter_lives_and_it_accepts_connections(settings: Settings) -> None:
    assert find_address(settings) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        keep_address(settings, address)
        assert find_address(settings) == address
        file = settings.place("ray.json")
        kept = msgspec.json.decode(file.read_bytes())
        # A later process may have the id of the starter.
        file.write_bytes(msgspec.json.encode(kept | {"starter": f"{os.getpid()} boot 1"}))
        assert find_address(settings) is None
        forget_address(settings)
        assert file.exists(), "another process wrote it"
        keep_address(settings, address)
    assert find_address(settings) is None, "nothing listens there"
    forget_address(settings)
    assert not settings.place("ray.json").exists()


def test_sessions_of_ended_processes_are_removed(tmp_path: Path) -> None:
    alive, dead = (
        tmp_path / f"session_2026-01-01_00-00-00_1_{pid}" for pid in (os.getpid(), run_process_to_its_end())
    )
    for session in (alive, dead):
        (session / "logs").mkdir(parents=True)
    (tmp_path / "session_of_mine").mkdir()  # not Ray's
    remove_dead_sessions(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, "session_of_mine"}
    assert mark_of(os.getpid())


def test_a_runtime_folder_that_others_may_enter_is_refused(settings: Settings) -> None:
    folder = runtime_folder(settings)
    folder.chmod(0o755)
    with pytest.raises(Unavailable, match="another user owns the folder or can enter it"):
        runtime_folder(settings)
    folder.chmod(0o700)
    assert runtime_folder(settings) == folder


USER = """
import sys
from pathlib import Path
from headrace.cluster.folder import runtime_folder
from headrace.config.settings import load_settings
print(runtime_folder(load_settings(Path(sys.argv[1]))), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ends", ["by itself", "by force"])
def test_a_folder_is_removed_once_no_process_uses_it(settings: Settings, ends: str) -> None:
    command = [sys.executable, "-c", USER, str(settings.root)]
    users = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    folders = {Path(user.stdout.readline().decode().strip()) for user in users if user.stdout}
    (folder,) = folders
    (folder / "ray").mkdir()
    (folder / "ray" / "session_latest").symlink_to(folder)
    for user in users:
        remove_unused_folders()
        assert folder.exists()
        if ends == "by force":
            user.kill()
        user.communicate()
    if ends == "by force":
        assert folder.exists()
        remove_unused_folders()  # as the next start does
    assert not folder.exists()


def test_a_folder_that_was_removed_is_made_again(settings: Settings) -> None:
    folder = runtime_folder(settings)
    folder.rmdir()
    assert runtime_folder(settings) == folder
    remove_unused_folders()
    assert folder.is_dir()


def test_a_cluster_that_does_not_answer_is_named_with_the_setting(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"  # free again after the block
    with (
        pytest.raises(Unavailable, match=r"the Ray cluster does not answer: .*refused") as unavailable,
        connect(settings.with_values(ray=address)),
    ):
        pytest.fail("nothing listens there")
    assert unavailable.value.where == f"profile.local.ray: {address}"
    assert 'ray = "local"' in str(unavailable.value.remedy)
