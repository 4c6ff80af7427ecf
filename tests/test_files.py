"""Writing files: a reader sees the old one or the whole new one, whatever happens in between."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from nvfp4viz.files import check_target, replacing, sha256


def _write(path, text="new"):
    with replacing(path) as temporary:
        temporary.write_text(text)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    return path


def test_the_new_file_replaces_the_old(old):
    with replacing(old) as temporary:
        assert temporary.parent == old.parent and temporary.suffix == ".html"
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new" and os.listdir(old.parent) == ["report.html"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError("no errno"), MemoryError()])
def test_a_failure_leaves_the_old_file(old, error):
    with pytest.raises(type(error)) as raised, replacing(old) as temporary:
        temporary.write_text("half")
        raise error
    assert old.read_text() == "old" and os.listdir(old.parent) == ["report.html"]
    if isinstance(error, OSError):
        assert str(old) in str(raised.value) and "no errno" in str(raised.value) and "None" not in str(raised.value)


def test_a_full_disk_leaves_the_old_file(old, monkeypatch):
    def full(self, *_, **__):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(
        OSError, match=r"cannot write '.*report.html': No space left on device; nothing was changed"
    ) as e:
        _write(old)
    assert e.value.errno == errno.ENOSPC and old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["report.html"]


@pytest.mark.parametrize("call", ["os.open", "os.replace", "os.chmod"])
def test_a_disk_that_fails_at_any_step_leaves_the_old_file(old, monkeypatch, call):
    def refuse(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(call, refuse)
    with pytest.raises(OSError, match=r"cannot write '.*report.html': Input/output error"):
        _write(old)
    monkeypatch.undo()
    assert old.read_text() == "old" and os.listdir(old.parent) == ["report.html"]


def test_a_process_killed_while_writing_leaves_the_old_file(old):
    program = textwrap.dedent(f"""
        import sys
        from nvfp4viz.files import replacing
        with replacing({str(old)!r}) as temporary, open(temporary, "w") as f:
            while True:
                f.write("half" * 4096)
                f.flush()
                print("writing", flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert old.read_text() == "old"
    left = [name for name in os.listdir(old.parent) if name != "report.html"]
    assert all(name.startswith(".report.html.") for name in left)  # hidden, and no reader takes it for the report
    _write(old)
    assert old.read_text() == "new"


def test_a_missing_folder_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder '.*none' does not exist: create it"):
        _write(tmp_path / "none" / "report.html")
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file in it"):
        _write(tmp_path)


def test_a_device_is_not_renamed_over(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is a device or a pipe"):
        _write(pipe)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    with pytest.raises(OSError, match="'/dev/null' is a device or a pipe"):
        check_target("/dev/null")  # never written to here: root could lose it


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"folder '.*' cannot be written to: choose another output path"):
        _write(tmp_path / "report.html")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_said(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot be written to"):
            _write(tmp_path / "report.html")
    finally:
        tmp_path.chmod(0o700)


def test_a_link_stays_a_link(tmp_path, old):
    link = tmp_path / "sub" / "latest.html"
    link.parent.mkdir()
    link.symlink_to(old)
    _write(link)
    assert link.is_symlink() and old.read_text() == "new" and os.listdir(link.parent) == ["latest.html"]
    assert check_target(link) == Path(os.path.realpath(old))
    dangling = tmp_path / "dangling.html"
    dangling.symlink_to(tmp_path / "first.html")
    _write(dangling)
    assert (tmp_path / "first.html").read_text() == "new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_of_an_old_file_stay(old, mode):
    old.chmod(mode)
    _write(old)
    assert stat.S_IMODE(old.stat().st_mode) == mode


def test_permissions_of_a_new_file_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        _write(tmp_path / "new.html")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.html").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 250, "é" * 120, "no suffix", ".hidden", "a\nb", "-o"])
def test_odd_names(tmp_path, name):
    _write(tmp_path / name)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 5])
def test_checksums(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(os.urandom(size))
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_threads_leave_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        names = [[f"{n}-{i}.html" for i in range(200)] for n in range(2)]
        threads = [threading.Thread(target=lambda some=some: [_write(tmp_path / n) for n in some]) for some in names]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        after = os.umask(before)
    assert after == 0o027 and {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


def test_while_it_is_written_nobody_else_reads_a_file_that_was_private(old):
    old.chmod(0o600)
    with replacing(old) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
