"""Writing a file so that a reader sees the old one or the whole new one; locks; checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path

from filelock import SoftFileLock, Timeout


@contextlib.contextmanager
def replacing(path: str | os.PathLike):
    """A temporary path beside `path`; renamed onto it if the block ends well, removed if not.

    Follows symbolic links and keeps the permissions of a file that is there already.
    Raises FileNotFoundError where the folder is missing, OSError where it cannot be written.
    """
    target, name = check_target(path), None
    try:
        there = target.exists()
        beside = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}{target.suffix}")
        # the system applies the umask: to ask for it is to change it for other threads
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if there else 0o666))
        name = beside
        yield beside
        if there:
            os.chmod(name, stat.S_IMODE(target.stat().st_mode))
        os.replace(name, target)
    except OSError as error:
        why = error.strerror or error
        text = f"cannot write {str(path)!r}: {why}; nothing was changed"
        raise OSError(error.errno or errno.EIO, text) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            if name:
                os.unlink(name)


def check_target(path: str | os.PathLike) -> Path:
    """The file that writing to `path` replaces, behind ~ and symbolic links; OSError where none can be written."""
    path = Path(path).expanduser()
    _check_folder(path)
    target = Path(os.path.realpath(path))
    _check_folder(target)
    if target.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: give the name of a file in it")
    if target.exists() and not target.is_file():  # renaming onto /dev/null would destroy it for everybody
        raise OSError(f"{str(path)!r} is a device or a pipe: give the name of a regular file")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"folder {str(target.parent)!r} cannot be written to: choose another output path")
    return target


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {str(path.parent)!r} does not exist: create it, or choose another output path")


@contextlib.contextmanager
def locked(path: Path):
    """Hold `path`.lock, so that two processes do not write one file; a dead process's lock is taken over.

    Raises RuntimeError where another process, or this one, holds it; FileNotFoundError where the folder is missing.
    """
    _check_folder(path)
    lock = SoftFileLock(path.with_name(path.name + ".lock"))  # a file with process and host: also on shared folders
    try:
        lock.acquire(timeout=0.3, poll_interval=0.05)  # time for a second try, after a dead one's lock
    except Timeout:
        raise RuntimeError(
            f"process {lock.pid or '?'} is writing {str(path)!r}: wait for it, or give another path; if no such "
            f"process runs, on this host or the one named there, remove {lock.lock_file!r}"
        ) from None
    try:
        yield
    finally:
        lock.release()


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
