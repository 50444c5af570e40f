"""A page in a real headless browser: what it measures at a width, what it logs, what it asks the network for.

The page is shown in a frame of that width, so that no smallest width of a window gets in the way, and measured by a
page around it, so that the page's own policy against scripts stays in force.
"""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_MEASURE = """<!doctype html><meta charset="utf-8"><title>measuring</title>
<iframe id="page" src="PAGE" style="border:0;width:WIDTHpx;height:900px"></iframe><pre id="measured"></pre>
<script>
document.getElementById("page").onload = () => {
  const page = document.getElementById("page"), inside = page.contentDocument, width = page.contentWindow.innerWidth;
  for (const d of inside.querySelectorAll("details")) d.open = true;
  const wide = [...inside.querySelectorAll("body *")].filter(
    (e) => !e.closest(".scroll *") && e.getBoundingClientRect().right > width + 0.5);
  const flat = [...inside.querySelectorAll("svg")].filter((s) => {
    const box = s.getBoundingClientRect(); return !(box.width > 0 && box.height > 0); });
  document.getElementById("measured").textContent = JSON.stringify({
    inner: width, scroll: inside.documentElement.scrollWidth, title: inside.title,
    svgs: inside.querySelectorAll("svg").length, flat: flat.length,
    wide: wide.map((e) => e.tagName + "." + (e.getAttribute("class") || "")),
    scripts: inside.querySelectorAll("script, img, link, iframe, object, embed").length,
    dark: page.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
  });
};
</script>"""


@dataclass(frozen=True)
class Seen:
    """What came of a page.

    Attributes:
        measured: widths in CSS pixels; elements that stick out; what was found in the document.
        console: the lines that the page caused in the browser's console.
        requests: addresses that the browser asked the network for.
    """

    measured: dict[str, Any]
    console: list[str]
    requests: list[str]


def find_browser() -> str | None:
    """Chromium or a relative of it; None if this machine has none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look_at(browser: str, page: Path, width: int, folder: Path) -> Seen:
    """Show a file at this width, all its details unfolded."""
    wrapper, net_log = folder / f"measure-{width}.html", folder / f"net-{width}.json"
    wrapper.write_text(_MEASURE.replace("PAGE", page.as_uri()).replace("WIDTH", str(width)), encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net_log}", "--window-size=1600,1200",
            "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.S)
    assert found, f"the page could not be measured:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser asks its maker for this and that, of its own accord; what a page asks for has the page's origin.
    events = [line for line in net_log.read_text(encoding="utf-8").splitlines() if '"initiator":' in line]
    by_page = [line for line in events if '"initiator":"not an origin"' not in line]
    requests = [address for line in by_page for address in re.findall(r'"url":"((?:http|ws)s?:[^"]+)"', line)]
    return Seen(json.loads(html.unescape(found[1])), console, requests)


class Parsed(HTMLParser):
    """The tags of a page, and its text as a person would read it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "  # cells of a table are words of their own
