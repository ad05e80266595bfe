"""Every page of the built site, opened in headless Chromium without a network.

`make test-web` builds the site and runs these tests; `make test` does not.
"""

import functools
import http.client
import http.server
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, wait_until

from ppo37.course.charts import CHARTS
from ppo37.tools import details

SITE = ROOT / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
TIMEOUT_S = 120.0
"""Ends a test that hangs; nothing is measured."""
# Images are loaded with the page, but fonts only when they are needed.
FACTS = """document.fonts.ready.then(() => ({
  ids: [...document.querySelectorAll("[id]")].map((element) => element.id),
  links: [...document.links].map((link) => link.href),
  images: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src),
  equations: document.querySelectorAll(".arithmatex").length,
  rendered: document.querySelectorAll(".arithmatex .katex-html").length,
}))"""
PHONE = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
SEARCH = """new Promise((found) => {
  const look = () => {
    const link = document.querySelector(".md-search-result__link");
    link ? found(link.href) : requestAnimationFrame(look);
  };
  look();
})"""

pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(not PAGES, reason="the site is not built: `make docs`"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


class Tab:
    """A tab of a browser, controlled by the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result; events that come first are kept."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := self._receive()).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, script: str) -> Any:
        """Return the value of a script, awaited if it is a promise."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        self.events = []
        self.call("Page.navigate", url=url)
        while not self._named("Page.loadEventFired"):
            self.events.append(self._receive())

    def failures(self) -> list[str]:
        """Describe failed requests, requests to other hosts, and errors on the console."""
        found = [f"{e['errorText']} {e.get('type')}" for e in self._named("Network.loadingFailed")]
        for event in self._named("Network.responseReceived"):
            if event["response"]["status"] >= 400:
                found.append(f"{event['response']['status']} {event['response']['url']}")
        for event in self._named("Network.requestWillBeSent"):
            if not event["request"]["url"].startswith(("http://127.0.0.1:", "data:", "blob:")):
                found.append(f"a request to {event['request']['url']}")
        found += [str(event) for event in self._named("Runtime.exceptionThrown")]
        for event in self._named("Runtime.consoleAPICalled"):
            found += [str(event["args"])] if event["type"] in ("error", "assert") else []
        for event in self._named("Log.entryAdded"):
            found += [str(event["entry"])] if event["entry"]["level"] == "error" else []
        return found

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=TIMEOUT_S))
        return message

    def _named(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server of the site."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Silent, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """A tab of a browser that can reach this machine only."""
    from websockets.sync.client import connect

    with ExitStack() as stack:
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        browser = subprocess.Popen(
            [
                str(CHROMIUM),
                "--headless",
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--no-proxy-server",
                "about:blank",
            ],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(browser.wait, timeout=TIMEOUT_S)
        stack.callback(browser.terminate)
        written = profile / "DevToolsActivePort"
        wait_until(lambda: written.exists() and len(written.read_text().split()) == 2)
        port = int(written.read_text().split()[0])
        listing = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        listing.request("GET", "/json")
        targets = json.loads(listing.getresponse().read())
        page = next(target for target in targets if target["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Tab(socket)


@pytest.fixture(scope="module")
def facts_of(tab: Tab, address: str) -> Callable[[str], dict[str, Any]]:
    """A function that opens a page and returns facts about it; every page is opened once."""

    @functools.cache
    def open_page(page: str) -> dict[str, Any]:
        tab.call("Emulation.clearDeviceMetricsOverride")
        tab.open(f"{address}/{page}")
        facts = tab.evaluate(FACTS)
        tab.call("Emulation.setDeviceMetricsOverride", **PHONE)
        facts["too wide"] = tab.evaluate(TOO_WIDE)
        facts["failures"] = tab.failures()
        return facts

    return open_page


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_everything_and_renders_its_equations(
    page: str, facts_of: Callable[[str], dict[str, Any]]
) -> None:
    facts = facts_of(page)
    assert not facts["failures"]
    assert not facts["images"]
    assert facts["rendered"] == facts["equations"]
    assert not facts["too wide"], "the page is wider than a phone"


MOVE = """new Promise((found) => {
  const chart = document.querySelector(".chart");
  const title = () => chart.querySelector(".chart-plot").dataset.title;
  const slider = chart.querySelectorAll("input")[%d];
  const before = title();
  slider.value = %d;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  requestAnimationFrame(() => found([before, title(), slider.getAttribute("aria-valuetext"),
    chart.querySelector(".gtitle")?.textContent ?? ""]));
})"""


@pytest.mark.parametrize("name", CHARTS)
def test_moving_a_slider_changes_the_chart(name: str, tab: Tab, address: str) -> None:
    """Without a network; the figure is that of the functions of the package."""
    chart = CHARTS[name]
    tab.call("Emulation.clearDeviceMetricsOverride")
    tab.open(f"{address}/learn/{chart.lesson}.html")
    control = len(chart.controls) - 1
    argument, values = list(chart.controls.items())[control]
    at = 0 if values.index(chart.start[argument]) else 1
    before, after, text, drawn = tab.evaluate(MOVE % (control, at))
    assert before == chart.figure(**chart.start)["layout"]["title"]["text"]
    expected = chart.figure(**{**chart.start, argument: values[at]})
    assert after == expected["layout"]["title"]["text"] != before
    assert drawn.replace("\xa0", " ") in after
    assert text in (str(values[at]), f"{values[at]:g}" if isinstance(values[at], float) else "")
    assert not tab.failures()


def test_the_page_of_a_detail_shows_its_equation(
    facts_of: Callable[[str], dict[str, Any]],
) -> None:
    for detail in details.load():
        facts = facts_of(f"reference/details/{detail.tag}.html")
        assert (facts["equations"] == 1) == (detail.equation is not None), detail.tag


def test_every_link_inside_the_site_has_a_target(
    address: str, facts_of: Callable[[str], dict[str, Any]]
) -> None:
    for page in PAGES:
        for link in facts_of(page)["links"]:
            parts = urllib.parse.urlsplit(link)
            if f"{parts.scheme}://{parts.netloc}" != address:
                continue
            target = urllib.parse.unquote(parts.path).lstrip("/") or "index.html"
            target += "index.html" if target.endswith("/") else ""
            assert (SITE / target).is_file(), f"{page}: {link}"
            if parts.fragment and target.endswith(".html"):
                anchor = urllib.parse.unquote(parts.fragment)
                assert anchor in facts_of(target)["ids"], f"{page}: {link}"


def test_the_search_finds_a_page(tab: Tab, address: str) -> None:
    tab.open(f"{address}/index.html?q=explained+variance")
    assert tab.evaluate(SEARCH).startswith(address)
    assert not tab.failures()
