"""A headless Chromium by its DevTools pipe: no driver, no port and no package beside the browser itself."""

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT_S = 60  # for an answer, or for what a page is to become


def browser() -> str:
    """The browser's program; skips the test where there is none."""
    found = os.environ.get("AVTOOLS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium here (Debian: apt-get install chromium; or set AVTOOLS_CHROMIUM)")
    return found


class Chromium:
    """One page in a browser of its own: `open`, `js`, `until`, `picture`; `requests`, `complaints` tell what it did."""

    def __init__(self, folder, size=(1280, 900), dark=False):
        ours, theirs = os.pipe(), os.pipe()  # what we write, what it writes
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--window-size={size[0]},{size[1]}"]

        def wire():  # it reads descriptor 3 and writes 4
            low, high = os.dup(ours[0]), os.dup(theirs[1])
            low, high = (os.dup(one) if one in (3, 4) else one for one in (low, high))
            os.dup2(low, 3)
            os.dup2(high, 4)

        self.process = subprocess.Popen(
            [browser(), *flags, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=wire, pass_fds=(3, 4, ours[0], theirs[1]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        self.to, self.of = open(ours[1], "wb", buffering=0), open(theirs[0], "rb", buffering=0)
        self.answers: dict[int, queue.Queue] = {}
        self.number, self.session = 0, None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.loaded = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session = None
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.to.close()

    def _read(self):
        rest = b""
        while data := self.of.read(1 << 16):
            *whole, rest = (rest + data).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self.answers[message["id"]].put(message)
                else:
                    self._event(message["method"], message["params"])
        for answer in list(self.answers.values()):
            answer.put({"error": {"message": "the browser is gone"}})

    def _event(self, method: str, told: dict):
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"])[:600])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"])[:600])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"] + " " + told["entry"].get("url", ""))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {told['message']}")
        elif method == "Page.loadEventFired":
            self.loaded.set()

    def call(self, method: str, **parameters) -> dict:
        self.number += 1
        answer = self.answers[self.number] = queue.Queue()
        message = {"id": self.number, "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        self.to.write(json.dumps(message).encode() + b"\0")
        told = answer.get(timeout=WAIT_S)
        assert "error" not in told, f"{method}: {told['error']['message']}"
        return told["result"]

    def resize(self, width: int, height: int):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path):
        """Open the page in the file `path`, and wait until its script has made it."""
        self.loaded.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        assert self.loaded.wait(WAIT_S)
        self.until("document.documentElement.dataset.ready === 'yes'")

    def js(self, expression: str):
        """The value of an expression, awaited where it is a promise."""
        told = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"].get("exception", told)
        return told["result"].get("value")

    def until(self, expression: str):
        """Wait until an expression is true, and give it."""
        end = time.monotonic() + WAIT_S
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"never came true: {expression}"
            time.sleep(0.05)
        return value

    def key(self, key: str, text: str | None = None):
        code = {" ": "Space"}.get(key, key)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, **({"text": text or key} if kind == "keyDown" and len(key) == 1 else {}))

    def picture(self, path, whole=False):
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))
