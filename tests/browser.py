"""A real browser: Chromium without a window, spoken to through a pipe by its DevTools protocol.

    page = browser.open(path, width=390)
    page.hover(*page.centre("#map"))
    assert page.faults() == []

Nothing has to be installed beside the browser, and no port is opened.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync --disable-extensions"
    " --hide-scrollbars --force-color-profile=srgb --remote-debugging-pipe"
)
# Chromium reads from descriptor 3 and writes to 4.
_START = """import os, sys
for end, place in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(end), place)
os.execv(sys.argv[3], sys.argv[3:])"""
_SECONDS = 60.0

_FAULTS = """(() => {
  const inScroller = e => { for (let p = e.parentElement; p; p = p.parentElement)
    if (/auto|scroll/.test(getComputedStyle(p).overflowX) && p !== document.body) return true; return false; };
  const told = e => [e.tagName.toLowerCase(), e.id && `#${e.id}`, ...e.classList].join(" ");
  const out = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().width > 0
    && (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5) && !inScroller(e));
  const wide = document.documentElement.scrollWidth;
  const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0);
  return [
    ...(wide > innerWidth ? [`scrolls sideways: ${wide}`] : []),
    ...out.map(e => `sticks out: ${told(e)}`), ...broken.map(i => `no picture: ${i.alt}`)];
})()"""


class BrowserError(AssertionError):
    """The browser answered with an error, or not in time."""


class Page:
    """An open page.

    Attributes
    ----------
    errors : list of str
        What the console was told of errors and warnings, exceptions, and refusals of the page's own policy.
    requests : list of str
        Every address that was asked for, `data:` ones left out.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        return self._browser.call(method, self._session, **values)

    def heard(self, method: str, values: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent" and not values["request"]["url"].startswith("data:"):
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.errors.append(values["entry"]["text"])

    def go(self, path: Path) -> None:
        """Open a file, and wait until it and its pictures are there."""
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._browser.listen(lambda: self._loaded)
        self.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => null))).then(() => true)")
        self.settle()

    def evaluate(self, script: str) -> Any:
        """The value of an expression, as JSON has it; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{script[:200]}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def size(self, width: int, height: int = 900, *, dark: bool = False, touch: bool = False) -> None:
        """Lay the page out anew, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.settle()

    def faults(self) -> list[str]:
        """What is wrong at this size: sideways scrolling, elements that stick out, pictures that are not there."""
        found: list[str] = self.evaluate(_FAULTS)
        return found + [f"console: {error}" for error in self.errors]

    def centre(self, selector: str) -> tuple[float, float]:
        """The middle of an element within the window."""
        x, y = self.evaluate(
            f"(e => {{ const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        return float(x), float(y)

    def hover(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def click(self, x: float, y: float) -> None:
        """Move the pointer and click."""
        self.hover(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def drag(self, x: float, y: float, dx: float, dy: float) -> None:
        """Press, move and let go."""
        self.hover(x, y)
        for kind, to_x, to_y in (
            ("mousePressed", x, y),
            ("mouseMoved", x + dx, y + dy),
            ("mouseReleased", x + dx, y + dy),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=to_x, y=to_y, button="left", buttons=1, clickCount=1)
        self.settle()

    def wheel(self, x: float, y: float, dy: float) -> None:
        """Turn the wheel."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=dy)
        self.settle()

    def tap(self, x: float, y: float) -> None:
        """Touch with one finger."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def press(self, key: str) -> None:
        """Press a key, named as in `KeyboardEvent.key`."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def picture(self, *, whole: bool = False) -> bytes:
        """What is seen, as PNG; or the page from top to bottom."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)


class Browser:
    """A running Chromium.

    Parameters
    ----------
    program : str
    profile : Path
        A folder that the browser may write to.
    """

    def __init__(self, program: str, profile: Path) -> None:
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        # Beyond 3 and 4, so that putting one in its place does not close the other.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read, write)]
        os.close(read)
        os.close(write)
        command = [
            sys.executable,
            "-c",
            _START,
            *map(str, ends),
            program,
            *_FLAGS.split(),
            f"--user-data-dir={profile}",
        ]
        with (profile.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen([*command, "about:blank"], pass_fds=ends, stdout=log, stderr=log)
        for fd in ends:
            os.close(fd)
        self._rest, self._last = b"", 0
        self._pages: dict[str, Page] = {}
        self._answers: dict[int, dict[str, Any]] = {}

    def call(self, method: str, session: str | None = None, /, **values: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": values} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        self.listen(lambda: number in self._answers)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def listen(self, enough: Any) -> None:
        """Read until something is true."""
        until = time.monotonic() + _SECONDS
        while not enough():
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise BrowserError(f"chromium {'ended' if ready else f'said nothing for {_SECONDS:.0f} s'}")
            *whole, self._rest = (self._rest + data).split(b"\0")
            for text in whole:
                message = json.loads(text)
                if "id" in message:
                    self._answers[message["id"]] = message
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].heard(message["method"], message["params"])

    def open(
        self, path: Path, width: int = 1280, height: int = 900, *, dark: bool = False, touch: bool = False
    ) -> Page:
        """A file as a page of its own, at a size in CSS pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.size(width, height, dark=dark, touch=touch)
        page.go(path)
        return page

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(timeout=_SECONDS)
        os.close(self._out)
        os.close(self._in)
