"""A session answers a page's requests, computes what is missing beside them, and publishes what it knows.

It knows no widget: `send` takes a message for the page, `publish` values of its traits (messages.py has both), so that
a test, or another host of pages, needs no Jupyter. Any thread may call it; it computes on a thread of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from ..analysis import attribute_all, finite, pick
from ..nvfp4 import Recipe, as_recipe
from . import messages
from .store import Store

QUICK = 1 << 26  # elements of all tensors, up to which the strip follows a recipe that the dials make
NOW, SOON, LATER = range(3)  # priorities: what the page waits for, the recipes given, recipes that the dials made
PUBLISH_S = 0.1  # seconds between two reports of a running analysis
IDLE_S = 10.0  # a worker's thread, and the tensor read last, are let go after so many seconds without a job


class Session:
    """Between a Store and one page."""

    def __init__(self, store: Store, send: Callable[[dict], None], publish: Callable[[dict], None]):
        self.store, self._send, self._publish = store, send, publish
        self._worker, self._complete = Worker(rest=store.release), threading.Event()
        self._published: set[str] = set()  # tensors whose statistics the page's state holds

    def start(self, first: str) -> None:
        """Analyse every tensor in the background, `first` before the others; of a Sweep publish what it holds."""
        if self.store.live:
            self._analyze([first, *(t for t in self.store.stats if t != first)])
        else:
            self._publish_all()

    def add(self, tensor: str, x: Tensor) -> None:
        """Take one more tensor and analyse it in the background; only where the source is a dict."""
        self.store.add(tensor, x)
        self._publish({"catalog": self.store.catalog()})
        self._complete.clear()
        self._analyze([tensor])

    def prepare(self, tensor: str, recipes: list[str]) -> None:
        """Analyse one tensor under these recipes before all others, where that is still to be done."""
        if self.store.live and not self.store.has(tensor, recipes):
            self._worker.put(lambda: self._try(tensor, recipes), NOW)

    def _try(self, tensor: str, recipes: list[str]) -> None:
        with contextlib.suppress(Exception):  # whoever asks for its statistics is told
            self.store.analyze(tensor, recipes)

    def wait(self, timeout: float) -> bool:
        """Whether every tensor is analysed, after `timeout` seconds at most."""
        return self._complete.wait(timeout)

    def close(self) -> None:
        """Run no more jobs, and let activations go."""
        self._worker.stop()
        self.store.release()

    # Requests, by the names of messages.REQUESTS
    def handle(self, message: dict) -> None:
        """Answer a request, now or from the worker's thread; whatever goes wrong is an answer, `refused`."""
        try:
            messages.check_request(message)
            getattr(self, f"_answer_{message['want']}")(message)
        except Exception as error:  # shown in the page, where the request came from
            self._refuse(message, error)

    def _reply(self, request: dict, kind: str, **answer) -> None:
        self._send({"kind": kind, "id": request.get("id"), **answer})

    def _refuse(self, request: dict, error: Exception) -> None:
        self._reply(request if isinstance(request, dict) else {}, "refused", text=str(error) or type(error).__name__)

    def _schedule(self, request: dict, job: Callable[[], None], priority: int = NOW) -> None:
        """Run a job on the worker's thread; what it raises refuses the request."""
        self.store.require()

        def guarded():
            try:
                job()
            except Exception as error:  # a file or an engine may raise anything; the next job runs
                self._refuse(request, error)

        self._worker.put(guarded, priority)
        if priority == NOW:
            self._reply(request, "working")

    def _answer_nothing(self, request):
        """Only its arrival matters."""

    def _answer_hello(self, request):
        fresh = [t for t, row in self.store.stats.items() if row and t not in self._published]
        self._reply(request, "stats", stats=self.store.fitting(fresh), summary=self.store.summary(fresh))

    def _answer_stats(self, request):
        tensor, recipes = request["tensor"], [as_recipe(r) for r in request["recipes"]]
        names = [r.name for r in recipes]

        def send():
            stats = {n: messages.compact(s) for n, s in self.store.analyze(tensor, names).items()}
            self._reply(request, "stats", stats={tensor: stats}, recipes=[messages.recipe_entry(r) for r in recipes])

        if self.store.has(tensor, names):
            send()
        else:
            self._schedule(request, send)

    def _answer_ahead(self, request):
        store, names = self.store, request["recipes"]
        ready = [t for t in request["tensors"] if t not in store.skipped and store.has(t, names)]
        rows = {t: {n: messages.compact(store.stats[t][n]) for n in names} for t in ready}
        self._reply(request, "stats", stats=rows)

    def _answer_recipe(self, request):
        self._answer_stats({**request, "recipes": [Recipe.from_dict(request["settings"])]})

    def _answer_sweep(self, request):
        store, name = self.store, as_recipe(request["recipe"]).name
        if not (store.live and self._complete.is_set() and store.elements() <= QUICK):
            return
        tensors = [t for t in store.stats if t not in store.skipped]
        for tensor in tensors:
            self._schedule(request, lambda tensor=tensor: store.analyze(tensor, [name]), LATER)
        self._schedule(request, lambda: self._reply(request, "stats", summary=store.summary(tensors)), LATER)

    def _answer_picks(self, request):
        tensor, recipe, rule = request["tensor"], request["recipe"], request["rule"]
        self._schedule(request, lambda: self._reply(request, "picks", **pick(self.store.read(tensor), recipe, rule)))

    def _answer_attribution(self, request):
        tensor, recipes = request["tensor"], [as_recipe(r) for r in request["recipes"]]

        def split():
            parts = attribute_all(self.store.read(tensor), recipes, sample=0)
            self._reply(request, "attribution", shares={a.recipe.name: finite(a.shares()) for a in parts})

        self._schedule(request, split)

    def _answer_block(self, request):
        tensor, (token, block) = request["tensor"], request["block"]

        def inspect():
            x, values = self.store.read(tensor), request.get("values")
            seen = messages.inspections(x, token, block, request["recipes"], values)
            self._reply(request, "block", **seen, token_text=self.store.token_text(token))

        self._schedule(request, inspect)

    # All tensors, in the background
    def _analyze(self, tensors: list[str]) -> None:
        """Queue tensors behind whatever the page asks for, and publish when they are done."""
        store, fresh, published = self.store, [], time.monotonic()

        def one(done: int, tensor: str):
            nonlocal published
            try:
                store.analyze(tensor, store.recipes)
                fresh.append(tensor)
            except Exception as error:  # this tensor's own trouble, shown with it
                store.skipped[tensor] = str(error) or type(error).__name__
            if time.monotonic() - published > PUBLISH_S:
                self._reply({}, "stats", stats=store.fitting(fresh), summary=store.summary(fresh))
                self._publish({"progress": {"done": done, "total": len(tensors)}})
                fresh.clear()
                published = time.monotonic()

        for done, tensor in enumerate(tensors, 1):
            self._worker.put(lambda done=done, tensor=tensor: one(done, tensor), SOON)
        self._worker.put(self._publish_all, SOON)

    def _publish_all(self) -> None:
        """Put all that fits into the page's state, so that a saved notebook has it too."""
        store, total = self.store, len(self.store.stats)
        statistics = store.fitting(store.stats)
        self._published = set(statistics)
        state = {"catalog": store.catalog(), "summary": store.summary(store.stats), "statistics": statistics}
        self._publish({**state, "progress": {"done": total, "total": total}})
        self._complete.set()


class Worker:
    """Runs jobs one by one, the smallest priority first, on a thread that is there only while there are jobs."""

    def __init__(self, rest: Callable[[], None]):
        self._jobs, self._ticket, self._rest = [], itertools.count(), rest
        self._thread: threading.Thread | None = None
        self._changed, self._stopped = threading.Condition(), False
        _WORKERS.add(self)

    def put(self, job: Callable[[], None], priority: int = 0) -> None:
        """Queue a job; after `stop` nothing happens."""
        with self._changed:
            if self._stopped:
                return
            heapq.heappush(self._jobs, (priority, next(self._ticket), job))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="nvfp4viz-explorer", daemon=True)
                self._thread.start()

    def stop(self, wait: float = 0) -> None:
        """Run no more jobs; wait so many seconds for the one that runs."""
        with self._changed:
            self._stopped = True
            self._jobs.clear()
            self._changed.notify()
            thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join(wait)

    def _work(self) -> None:
        with torch.inference_mode():  # holds for this thread only
            while job := self._next():
                job()
                del job  # what it holds is let go before the next is waited for
        self._rest()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopped, IDLE_S)
            if self._jobs:
                return heapq.heappop(self._jobs)[2]
            self._thread = None
            return None


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


def _stop_all() -> None:
    """At the interpreter's end: torch aborts where a thread of it is cut off."""
    for worker in list(_WORKERS):
        worker.stop(10)


atexit.register(_stop_all)
