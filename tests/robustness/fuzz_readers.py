"""Fuzz every reader: `make fuzz`, or `make fuzz ARGS="--seconds 60 --readers npz pt"`.

A spoilt file may give a result, or a ValueError, FileNotFoundError or OSError of one clear line; nothing else. Never
more than 5 s of CPU or 1 GiB of memory beyond the program's own, nor a crash, a file written, a program, a connection.
Each reader runs in a process of its own. With atheris installed, readers written in Python are led by coverage.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import mmap
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None
with contextlib.ExitStack() as _stack:
    if atheris:
        _stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # it names every module
        _stack.enter_context(atheris.instrument_imports(include=["nvfp4viz", "yaml"]))
    import nvfp4viz.pages
    from nvfp4viz import Sweep, checkpoint, load, sweep
    from nvfp4viz.checkpoints import against, fit
    from nvfp4viz.cli import checkpoint as checkpoint_command
    from nvfp4viz.cli.doctor import examine, report_lines
    from nvfp4viz.environment import read_environment
    from nvfp4viz.pages import packing

import mutations
import torch
from seeds import WORDS, bombs, seeds

CPU_S, MEMORY = 5.0, 1 << 30
LINE = 2000  # characters of an error
FOLDER, ORIGINAL = "model", "original"  # folders of a checkpoint
TEXTS = ("dotenv", "dockerfile", "yaml", "shell", "process", "scanner")
GUIDED = ("index", "report", "sweep", *TEXTS)
NAMES = {  # of the file that a reader is given
    "safetensors": ("x.safetensors",),
    "npy": ("x.npy",),
    "npz": ("x.npz",),
    "pt": ("x.pt", "Pass00000.pt"),
    "bin": ("x.bin",),
    "index": ("x.safetensors.index.json",),
    "report": ("r.html",),
    "sweep": ("s.json",),
    "checkpoint": ("folder.zip",),
    "dotenv": (".env", "text"),
    "dockerfile": ("Dockerfile", "text"),
    "yaml": ("compose.yaml", "text"),
    "shell": ("run.sh", "text"),
    "process": ("environ", "text"),
    "scanner": ("text", "Makefile", "a.service", "README.md", "a.py", "a.toml", "a.bat", "a.json", "a.sbatch", "a.tf"),
}


class WrongError(Exception):
    """Something that no file may do."""


class SlowError(BaseException):
    """Too long; nothing in the library catches it."""


# --- what is done with a file


def read(reader: str, name: str) -> None:
    """All that a user would do first with the file."""
    if reader == "sweep":
        use(Sweep.load(name))
    elif reader == "report":
        use(nvfp4viz.pages.load_report(name))
    elif reader == "checkpoint":
        audit(shown=zlib.crc32(Path(name).read_bytes()) % 8 == 0)
    elif reader in TEXTS:
        report = examine(read_environment(Path(name)), machine=False)
        json.dumps(report)
        collections.deque(report_lines(report), 0)
    else:
        measure(load(name))


def use(found: Sweep) -> None:
    found.table()
    json.dumps(found.to_dict(), allow_nan=False)
    for recipe in found.recipes if found.stats else ():
        found.total(recipe)
    json.dumps((found + found).to_dict(), allow_nan=False)
    packing.page_data(found)
    if found.stats:
        nvfp4viz.recommend(found)
        nvfp4viz.explore(found).close()


def unfold(name: str) -> None:
    """The folder of a checkpoint that an archive holds, beside it; at first the first is the original too."""
    for folder in (FOLDER, *(() if Path(ORIGINAL).exists() else (ORIGINAL,))):
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
        for file, content in mutations.unfolded(Path(name).read_bytes()).items():
            if isinstance(content, str):
                (Path(folder) / file).symlink_to(content)
            else:
                (Path(folder) / file).write_bytes(content)


def audit(shown: bool) -> None:
    """What `nvfp4viz checkpoint` does with a folder; where `shown` also its page and `explore`, which take long."""
    found = checkpoint(FOLDER)
    found.table()
    json.dumps(found.to_dict(), allow_nan=False)
    collections.deque(checkpoint_command.report_lines(found, checkpoint_command.Screen()), 0)
    for finding in found.findings:
        one_line(finding.message)
    if shown:
        nvfp4viz.pages.checkpoint.render_checkpoint(found)
        nvfp4viz.explore(found).close()
    name = next(iter(found.matrices))
    for work in (lambda: against(found, ORIGINAL), lambda: fit(found, {name: torch.ones(2, 32)})):
        try:
            json.dumps(work().to_dict(), allow_nan=False)
        except ValueError as error:  # nothing of it goes with the other side
            one_line(str(error))


def measure(found) -> None:
    for name in list(found)[:8]:
        with contextlib.suppress(Exception):  # a sweep says why, below
            x = found[name]
            if x.numel() * x.element_size() > MEMORY:
                raise WrongError(f"{name[:40]!r} has {x.numel():,} elements")
    for why in sweep(found, ["4/6-mae-256"], engine="cpu").skipped.values():
        one_line(why)


def one_line(message: str) -> None:
    if not message or "\n" in message or len(message) > LINE or not message.isprintable():
        raise WrongError(f"its message is no clear line: {message[:200]!r} ({len(message)} characters)")


# --- one file


def attempt(reader: str, name: str, data: bytes) -> str:
    """How reading ended: "ok", or an error that is allowed, in short. WrongError for all else."""
    Path(name).write_bytes(data)
    if reader == "checkpoint":
        unfold(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _watch["on"], _watch["seen"] = True, []
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        read(reader, name)
        outcome = "ok"
    except (ValueError, FileNotFoundError, OSError) as error:
        _watch["on"] = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        one_line(str(error))
        deepest = error
        while deepest.__cause__:
            deepest = deepest.__cause__
        if type(deepest) is MemoryError:  # NumPy's and torch's own come before memory is touched
            raise WrongError("it asked for all the memory there was") from error
        outcome = f"{type(error).__name__} of {type(deepest).__name__}: {_short(deepest)}"
    except SlowError:
        raise WrongError(f"more than {CPU_S:.0f} s") from None
    finally:
        _watch["on"] = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    if _watch["seen"]:
        raise WrongError(f"it did {_watch['seen'][:3]}")
    if Path(name).read_bytes() != data:
        raise WrongError("the file was changed")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > MEMORY:
        raise WrongError(f"{grown >> 20} MiB of memory for a file of {len(data):,} bytes")
    return outcome


_watch = {"on": False, "seen": []}
_FORBIDDEN = ("os.", "subprocess.", "socket.connect", "socket.bind", "shutil.", "pty.", "ctypes.dlopen", "tempfile.")
_HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")


def _audit(event: str, arguments: tuple) -> None:
    if not _watch["on"]:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _watch["seen"].append(f"{event} {arguments[0]!r}")
    elif event.startswith(_FORBIDDEN) and event not in _HARMLESS:
        _watch["seen"].append(f"{event} {arguments!r:.80}")


def _short(error: Exception) -> str:
    """Its message without what it quotes, so that equal ones count as one."""
    return re.sub(r"\d+", "#", re.sub(r"""(['"`]).*""", "...", str(error)))[:60]


def _too_long(*_):
    raise SlowError


# --- one reader, in a process of its own


class Fuzzer:
    """Spoils the files of one reader; counts runs in shared memory, writes down what went wrong."""

    def __init__(self, reader: str, start: tuple[bytes, ...], seed: int, counter: mmap.mmap, kept: Path):
        self.reader, self.start, self.counter, self.kept = reader, start, counter, kept
        self.rng, self.outcomes, self.failures = random.Random(seed), collections.Counter(), {}
        torch.set_num_threads(1)
        Path("part.safetensors").write_bytes(start[0] if reader == "safetensors" else seeds_of_a_shard())
        for data in start:
            for name in NAMES[reader]:
                Path(name).write_bytes(data)
                if reader == "checkpoint":
                    unfold(name)
                with contextlib.suppress(Exception):
                    read(reader, name)  # imports and compiles what is needed
        sys.addaudithook(_audit)
        signal.signal(signal.SIGPROF, _too_long)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 5 * MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def spoilt(self, data: bytes, rng: random.Random) -> bytes:
        reader, shape = self.reader, rng.random()
        if reader == "checkpoint":
            with contextlib.suppress(Exception):  # spoilt before: no header, no JSON
                return mutations.folder(rng.choice(self.start), rng)  # twice spoilt is refused at the door
            return data
        with contextlib.suppress(Exception):  # what was spoilt before may have no structure left
            if shape < 0.6:
                match reader:
                    case "safetensors" | "npy" | "report":
                        return getattr(mutations, reader)(data, rng)
                    case "npz":
                        return mutations.archive(data, rng, rng.choice((mutations.npy, mutations.spoil)))
                    case "pt":
                        change, inner = (
                            rng.choice((mutations.pickled, mutations.spoil)),
                            "data.pkl" if shape < 0.5 else "",
                        )
                        return mutations.archive(data, rng, change, inner)
                    case "bin":
                        return mutations.pickled(data, rng)
                    case "index" | "sweep":
                        return mutations.dumps(mutations.spoil_tree(json.loads(data), rng), rng)
                    case _ if shape < 0.3:
                        return mutations.lines(data, rng)
        return mutations.spoil(data, rng, WORDS if reader in GUIDED else (), self.start)

    def one(self, data: bytes, what: str = "") -> None:
        name = NAMES[self.reader][len(data) % len(NAMES[self.reader])]
        digest = hashlib.sha256(data).hexdigest()[:12]
        try:
            outcome = attempt(self.reader, name, data)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            outcome = f"WRONG {what}: {type(error).__name__}: {_short(error)!r} at {place}"
            if outcome not in self.outcomes:
                (self.kept / f"{self.reader}-{digest}").write_bytes(data)
        except SlowError:  # it came between two statements of ours
            outcome = "WRONG: slow"
        self.outcomes[outcome] += 1
        runs = struct.unpack_from("<q", self.counter)[0] + 1
        struct.pack_into("<q", self.counter, 0, runs)
        if self.reader in GUIDED or outcome.startswith("WRONG"):  # libFuzzer ends without a word
            (self.kept / f"{self.reader}.json").write_text(json.dumps(self.outcomes))

    def loop(self, seconds: float) -> None:
        end, pool = time.monotonic() + seconds, list(self.start)
        while time.monotonic() < end:
            data = self.spoilt(self.rng.choice(pool), self.rng)
            distinct = len(self.outcomes)
            self.one(data)
            if len(self.outcomes) > distinct and len(data) < 1 << 14:  # a new way to end: go on from it
                pool.append(data)

    def guided(self, seconds: float) -> None:
        """The same, led by the coverage that libFuzzer sees; it ends the process."""
        corpus = Path("corpus")
        corpus.mkdir()
        for i, data in enumerate(self.start):
            (corpus / str(i)).write_bytes(data)

        def mutate(data: bytes, limit: int, seed: int) -> bytes:
            rng = random.Random(seed)
            return self.spoilt(data, rng)[:limit] if rng.random() < 0.7 else atheris.Mutate(data, limit)

        options = [f"-max_total_time={int(seconds)}", f"-seed={self.rng.randrange(1, 1 << 31)}", "-max_len=262144"]
        options += ["-timeout=60", "-rss_limit_mb=0", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], self.one, custom_mutator=mutate)
        atheris.Fuzz()


def seeds_of_a_shard() -> bytes:
    from safetensors.torch import save

    return save({"a": torch.ones(2, 16)})


def _child(folder, reader, start, seed, counter, kept, seconds, files):
    os.chdir(folder)
    warnings.simplefilter("ignore")
    fuzzer = Fuzzer(reader, start, seed, counter, kept)
    if files is not None:
        for what, data in files:
            fuzzer.one(data, what)
    elif atheris and reader in GUIDED:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libFuzzer talks
        fuzzer.guided(seconds)
    else:
        fuzzer.loop(seconds)
    (kept / f"{reader}.json").write_text(json.dumps(fuzzer.outcomes))


def run(reader: str, start, seconds: float, seed: int, kept: Path, files=None) -> tuple[int, collections.Counter]:
    """Runs, and how they ended. A process that dies or hangs is an ending too, and is started again."""
    total, outcomes, end = 0, collections.Counter(), time.monotonic() + seconds
    context = multiprocessing.get_context("fork")
    while files or (files is None and end - time.monotonic() > 0.5):
        left = end - time.monotonic()
        counter, result = mmap.mmap(-1, 8), kept / f"{reader}.json"
        result.unlink(missing_ok=True)
        batch = files[:1] if files else None  # a file made to exhaust memory gets a process of its own
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            process = context.Process(
                target=_child, args=(folder, reader, start, seed, counter, kept, 0 if batch else left, batch)
            )
            process.start()
            process.join(60 if batch else left + 60)
            died = f"ended with {process.exitcode}" if process.exitcode else "hung" if process.is_alive() else ""
            process.kill()
            process.join()
            known = {*NAMES[reader], "part.safetensors", "corpus", FOLDER, ORIGINAL}
            more = sorted(p.name for p in Path(folder).iterdir() if p.name not in known)
            if died:
                outcomes[f"WRONG: the process {died}"] += 1
                for name in NAMES[reader]:
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copy(Path(folder) / name, kept / f"{reader}-died-{seed}-{name}")
            if more:
                outcomes[f"WRONG: files were written: {more[:5]}"] += 1
        seed += 1
        total += struct.unpack_from("<q", counter)[0]
        if result.exists():
            outcomes.update(json.loads(result.read_text()))
            result.unlink()
        files = files[1:] if files else files
    return total, outcomes


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="in all, shared by the readers (600)")
    names = ", ".join(NAMES)
    parser.add_argument("--readers", nargs="+", choices=NAMES, default=list(NAMES), metavar="READER", help=names)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="folder for files that went wrong (%(default)s)"
    )
    parser.add_argument("--show", action="store_true", help="every outcome, not only those that are wrong")
    given = parser.parse_args(arguments)
    given.keep.mkdir(parents=True, exist_ok=True)
    kept = given.keep.resolve()
    start, wrong = seeds(kept), 0
    made = bombs(start)
    print(
        f"{'reader':12} {'runs':>8} {'ok':>7} {'refused':>8}  kinds of error  wrong", "" if atheris else "(no coverage)"
    )
    for reader in given.readers:
        files = [(f"[{what}]", data) for r, what, data in made if r == reader]
        parts = [run(reader, start[reader], 0, given.seed, kept, files)] if files else []
        parts.append(run(reader, start[reader], given.seconds / len(given.readers), given.seed, kept))
        runs, outcomes = sum(n for n, _ in parts), sum((o for _, o in parts), collections.Counter())
        bad = {o: n for o, n in outcomes.items() if o.startswith("WRONG")}
        refused = {o: n for o, n in outcomes.items() if o != "ok" and o not in bad}
        counts = f"{runs:8,} {outcomes['ok']:7,} {sum(refused.values()):8,} {len(refused):15,} {sum(bad.values()):6,}"
        print(f"{reader:12} {counts}", flush=True)
        for outcome, n in sorted((outcomes if given.show else bad).items(), key=lambda item: -item[1]):
            print(f"    {n:6,}  {outcome}", flush=True)
        wrong += sum(bad.values())
    print(f"files that went wrong are in {given.keep}" if wrong else "nothing went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
