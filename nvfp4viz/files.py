"""Writing a file so that a reader sees the old one or the whole new one; locks; checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike):
    """A temporary path beside `path`; renamed onto it if the block ends well, removed if not.

    Raises FileNotFoundError where the folder is missing, OSError where it cannot be written.
    """
    path = Path(path)
    _check_folder(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: give the name of a file in it")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {str(path)!r}: {error.strerror}; nothing was changed") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {str(path.parent)!r} does not exist: create it, or choose another output path")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def locked(path: Path):
    """Hold `path`.lock, so that two processes do not write one file; a dead process's lock is taken over.

    Raises RuntimeError where another process, or this one, holds it; FileNotFoundError where the folder is missing.
    """
    _check_folder(path)
    lock, me = path.with_name(path.name + ".lock"), f"{os.getpid()} {socket.gethostname()}"
    for _ in range(3):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            _take_over(lock, path)
    else:
        raise RuntimeError(f"cannot lock {str(path)!r}: other processes keep taking {lock.name}")
    try:
        with os.fdopen(handle, "w") as f:
            f.write(me)
        yield
    finally:
        lock.unlink(missing_ok=True)


def _take_over(lock: Path, path: Path) -> None:
    """Remove a lock whose process is gone; RuntimeError where it may live."""
    with contextlib.suppress(FileNotFoundError):  # let go of in the meantime: try again
        text = lock.read_text()
        pid, _, host = text.partition(" ")
        if host != socket.gethostname() or _alive(int(pid)):
            raise RuntimeError(
                f"process {pid or '?'} on {host or 'an unknown host'} is writing {str(path)!r}: wait for it, or "
                f"give another path; if no such process runs, remove {str(lock)!r}"
            )
        aside = lock.with_name(f"{lock.name}.{os.getpid()}")
        os.rename(lock, aside)  # of several that try, one succeeds
        if aside.read_text() != text:  # a live lock that came in between
            os.rename(aside, lock)
        else:
            aside.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
