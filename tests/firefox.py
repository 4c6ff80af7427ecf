"""A headless Firefox, driven by WebDriver BiDi over a socket: as much of it as the tests of pages need."""

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("firefox-esr", "firefox")


def find_firefox() -> str | None:
    """Path of an installed Firefox, None where there is none; FIREFOX names another."""
    return os.environ.get("FIREFOX") or next(filter(None, map(shutil.which, NAMES)), None)


class Firefox:
    """One tab of a Firefox of its own."""

    def __init__(self, width: int, height: int = 800, scheme: str = "light"):
        import websocket

        self.profile = Path(tempfile.mkdtemp(prefix="nvfp4viz-firefox"))
        dark = int(scheme == "dark")
        (self.profile / "user.js").write_text(
            f'user_pref("layout.css.prefers-color-scheme.content-override", {1 - dark});\n'
            'user_pref("app.update.enabled", false);\nuser_pref("datareporting.policy.dataSubmissionEnabled", false);\n'
        )
        command = [
            find_firefox(),
            "--headless",
            "--no-remote",
            "--profile",
            str(self.profile),
            "--remote-debugging-port=0",
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        listening = (re.search(r"BiDi listening on (ws://\S+)", line) for line in self.process.stderr)
        url = next((match[1] for match in listening if match), None)
        assert url, f"{find_firefox()} ended before it listened"
        self.socket = websocket.create_connection(f"{url}/session", timeout=60, suppress_origin=True)
        self.ids, self.complaints = itertools.count(1), []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        self.tab = self.call("browsingContext.getTree")["contexts"][0]["context"]
        self.call("browsingContext.setViewport", context=self.tab, viewport={"width": width, "height": height})

    def call(self, method: str, **params) -> dict:
        """What a command answers; complaints of the page that come before it are kept."""
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] in ("warn", "error"):
                self.complaints.append(answer["params"]["text"])
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, url: str) -> None:
        self.call("browsingContext.navigate", context=self.tab, url=url, wait="complete")

    def evaluate(self, script: str):
        """The value of an expression, through JSON."""
        params = {"expression": f"JSON.stringify({script})", "target": {"context": self.tab}, "awaitPromise": True}
        answer = self.call("script.evaluate", **params)
        assert answer["type"] == "success", answer
        return json.loads(answer["result"].get("value", "null"))

    def until(self, script: str, timeout: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout
        while not self.evaluate(script):
            assert time.monotonic() < end, script
            time.sleep(0.1)

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.profile, ignore_errors=True)
