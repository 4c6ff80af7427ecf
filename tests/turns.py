"""Tests that assert time or memory run alone: processes of pytest-xdist take turns, by locks on two files."""

import fcntl
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, alone: bool):
    """Waits for this process's turn to run a test: beside those of others, or alone, once theirs have ended.

    Who waits to be alone holds the queue meanwhile, so that no test that starts later goes first.
    """
    with (folder / "queue").open("w") as queue, (folder / "tests").open("w") as tests:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(tests, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield
