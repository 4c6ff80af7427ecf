"""The session without a widget: requests and answers as plain dicts, the protocol's lists, its thread."""

import gc
import json
import re
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from hostile import NAMES

from nvfp4viz import Recipe, synthetic
from nvfp4viz.explorer import messages, session
from nvfp4viz.explorer.session import Session, Worker
from nvfp4viz.explorer.store import Store

ROOT = Path(__file__).parents[2]
PAIR = ["4/6-mae-448", "4/6-mae-256"]


class Host:
    """Stands for the page: keeps the messages it is sent, and the state that is published."""

    def __init__(self, activations, **options):
        self.sent, self.state, self.came = [], {}, threading.Condition()
        self.session = Session(Store(activations, PAIR, engine="reference", **options), self.send, self.state.update)

    def send(self, message):
        with self.came:
            self.sent.append(message)
            self.came.notify_all()

    def ask(self, want, **fields):
        """The answer to a request."""
        identity = len(self.sent), want
        self.session.handle({"want": want, "id": identity, **fields})

        def answers():
            return [m for m in self.sent if m["id"] == identity and m["kind"] != "working"]

        with self.came:
            assert self.came.wait_for(answers, 180)  # kernels compile at first use
        return answers()[0]


@pytest.fixture
def host():
    host = Host({"a": synthetic("lognormal", 16, 64), "b": synthetic("normal", 16, 64)})
    yield host
    host.session.close()


def test_it_publishes_what_it_knows_without_any_widget(host):
    host.session.start("b")
    assert host.session.wait(20)
    assert host.state["progress"] == {"done": 2, "total": 2} and set(host.state["statistics"]) == {"a", "b"}
    assert host.ask("hello")["stats"] == {}  # the page's state holds all
    host.session.add("c", synthetic("normal", 16, 64, seed=1))
    assert [t["name"] for t in host.state["catalog"]["tensors"]] == ["a", "b", "c"] and host.session.wait(20)
    assert list(host.state["statistics"]["c"]) == PAIR


def test_every_request_is_answered_with_the_fields_that_the_lists_promise(host):
    host.session.start("a")
    assert host.session.wait(20)
    settings, x = Recipe(320, four_over_six=True).to_dict(), {"tensor": "a", "recipes": PAIR}
    requests = {
        "hello": {}, "stats": x, "ahead": {"tensors": ["b"], "recipes": PAIR},
        "recipe": {"tensor": "a", "settings": settings}, "sweep": {"recipe": "standard"},
        "picks": {"tensor": "a", "recipe": PAIR[0], "rule": "worst"}, "attribution": x, "block": {**x, "block": [3, 1]},
    }  # fmt: skip
    assert {*requests, "nothing"} == set(messages.REQUESTS)
    seen = {"working", "refused"}
    for want, fields in requests.items():
        answer = host.ask(want, **fields)
        needed = {f for f in messages.ANSWERS[answer["kind"]][0] if not f.startswith("[")}
        allowed = {f.strip("[]") for f in messages.ANSWERS[answer["kind"]][0]} | {"kind", "id"}
        assert needed | {"kind", "id"} <= set(answer) <= allowed, want
        seen.add(answer["kind"])
    assert seen == set(messages.ANSWERS)


@pytest.mark.parametrize("message, why", [
    ({"want": "nonsense"}, "unknown request 'nonsense': one of hello, stats"),
    ({"want": ["stats"]}, "unhashable"), ({}, "unknown request None"), ("stats", "unknown request None"),
    ({"want": "stats", "tensor": "a"}, "request 'stats' lacks recipes"),
    ({"want": "stats", "tensor": "c", "recipes": PAIR}, "c"),
    ({"want": "block", "tensor": "a", "recipes": PAIR, "block": [1]}, "not enough values"),
])  # fmt: skip
def test_a_request_that_is_none_is_refused(host, message, why):
    host.session.handle(message)
    assert host.sent[-1]["kind"] == "refused" and why in host.sent[-1]["text"]


def test_what_is_known_is_answered_beside_a_running_computation(host, monkeypatch):
    host.session.start("a")
    assert host.session.wait(20)
    go, begun = threading.Event(), threading.Event()
    monkeypatch.setattr("nvfp4viz.explorer.store.analyze_all", lambda *a, **k: (begun.set(), go.wait(20), [])[2])
    host.session.handle({"want": "stats", "id": "slow", "tensor": "a", "recipes": ["standard"]})
    assert begun.wait(20)
    start = time.perf_counter()
    assert host.ask("stats", tensor="a", recipes=PAIR)["kind"] == "stats" and time.perf_counter() - start < 5
    go.set()


def test_what_is_asked_ahead_is_answered_without_a_computation(host):
    host.session.start("a")
    assert host.session.wait(20)
    assert list(host.ask("ahead", tensors=["b", "a"], recipes=PAIR)["stats"]) == ["b", "a"]
    assert host.ask("ahead", tensors=["b", "a"], recipes=["standard"])["stats"] == {}


def test_the_page_and_the_docs_speak_the_same_protocol():
    web = ROOT / "nvfp4viz" / "web"
    files = [p for p in web.rglob("*.js") if "report" not in str(p.relative_to(web))]  # its columns have kinds too
    script = "\n".join(p.read_text(encoding="utf-8") for p in files)
    assert set(re.findall(r'\bwant: "(\w+)"', script)) == set(messages.REQUESTS)
    kinds = set(re.findall(r'(?:\{ kind: |\bkind [!=]== )"(\w+)"', script))
    assert kinds and kinds <= set(messages.ANSWERS)
    doc = (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")
    for table in (messages.REQUESTS, messages.ANSWERS):
        for name, (fields, meaning) in table.items():
            assert f"| `{name}` | {', '.join(fields)} | {meaning} |" in doc
    assert all(hasattr(Session, f"_answer_{name}") for name in messages.REQUESTS)


def test_its_thread_and_its_tensor_go_when_it_rests(monkeypatch):
    monkeypatch.setattr(session, "IDLE_S", 0.05)
    read = []

    class Source(dict):
        def __getitem__(self, name):
            x = torch.randn(4, 32)
            read.append(weakref.ref(x))
            return x

    host = Host(Source(a=None))
    host.session.start("a")
    assert host.session.wait(20)
    deadline = time.time() + 10
    while (host.session._worker._thread or host.session.store._last) and time.time() < deadline:
        time.sleep(0.02)
    gc.collect()
    assert host.session._worker._thread is None and read and all(r() is None for r in read)
    assert host.ask("picks", tensor="a", recipe=PAIR[0], rule="worst")["kind"] == "picks"  # and comes back
    host.session.close()


def test_jobs_run_by_priority_and_none_after_stop():
    done, go = [], threading.Event()
    worker = Worker(rest=lambda: done.append("rest"))
    worker.put(lambda: go.wait(10))
    time.sleep(0.05)
    for name, priority in (("later", 2), ("soon", 1), ("now", 0)):
        worker.put(lambda name=name: done.append(name), priority)
    finished = threading.Event()
    worker.put(finished.set, 3)
    go.set()
    assert finished.wait(10) and done == ["now", "soon", "later"]
    worker.stop(10)
    worker.put(lambda: done.append("late"))
    assert done == ["now", "soon", "later", "rest"]


def test_hostile_names_go_to_the_page_as_they_are():
    host = Host({name: synthetic("normal", 4, 32, seed=i) for i, name in enumerate(NAMES.values())})
    host.session.start(NAMES["script"])
    assert host.session.wait(60)
    text = json.dumps(host.state, allow_nan=False).encode()  # half a surrogate pair would not encode
    assert len(json.loads(text)["statistics"]) == len(NAMES)
