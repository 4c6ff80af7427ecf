"""What runs on this machine: the environment and the command line of a process and of those that it started (Linux)."""

from __future__ import annotations

from pathlib import Path

from .assignments import NAME
from .commandline import arguments_of, program_of
from .settings import Settings

DESCENDANTS = 500  # of one process that are looked at


def read_process(pid: int) -> Settings:
    """The environment a running process was started with; changes it made itself later are not in it.

    Raises ValueError where there is no such process, or where it belongs to someone else.
    """
    try:
        data = Path(f"/proc/{int(pid)}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ValueError(f"there is no process {pid} (or no /proc: this needs Linux)") from None
    except PermissionError:
        raise ValueError(f"process {pid} belongs to someone else: run as its user, or with sudo") from None
    pairs = (row.split("=", 1) for row in data.decode(errors="surrogateescape").split("\0") if "=" in row)
    line = _command_line(pid)
    program = program_of(line) or program_of(line.replace("::", "."))
    name = f"process {pid}" + (f", {line[:60]}" if line else "")
    return Settings(name, {n: v for n, v in pairs if NAME.fullmatch(n)}, {}, {}, program, arguments_of(line))


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{int(pid)}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def read_processes(pid: int) -> list[Settings]:
    """A process and its descendants; those with the environment and the program of one before are named with it."""
    first, found = read_process(pid), []
    groups: dict[tuple, list] = {}
    for child in descendants(pid):
        try:
            one = read_process(child)
        except ValueError:
            continue  # it ended meanwhile, or runs as someone else
        program = one.program or first.program
        key = (tuple(sorted(one.variables.items())), program)
        groups.setdefault(key, []).append(
            (child, Settings(one.name, one.variables, {}, {}, program, one.arguments or first.arguments))
        )
    same = groups.pop((tuple(sorted(first.variables.items())), first.program), [])
    found.append(Settings(_also(first.name, same), first.variables, {}, {}, first.program, first.arguments))
    return found + [Settings(_also(g[0][1].name, g[1:]), *_rest(g[0][1])) for g in groups.values()]


def _rest(one: Settings) -> tuple:
    return one.variables, one.lines, one.unsettled, one.program, one.arguments


def _also(name: str, others: list) -> str:
    return name + (f", and {len(others)} more with the same" if others else "")


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [int(pid)]
    while queue and len(found) < DESCENDANTS:
        children = parents.get(queue.pop(0), [])
        found += children
        queue += children
    return found
