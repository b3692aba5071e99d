"""TensorBoard and reports as a person sees them: through headless Chromium."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# Follows shadow roots and same-origin frames: TensorBoard has many of either.
_READ_PAGE = """
const texts = [];
function read(node) {
  if (node.nodeType === Node.TEXT_NODE) { texts.push(node.textContent); return; }
  if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) return;
  if (node.nodeName === 'IFRAME') { try { read(node.contentDocument.body); } catch (error) {} return; }
  if (node.shadowRoot) read(node.shadowRoot);
  node.childNodes.forEach(read);
}
read(document.body);
return texts.join(' ').replace(/\\s+/g, ' ');
"""
_FIND_ALL = """
const found = [];
const selector = arguments[0];
function walk(root) {
  root.querySelectorAll(selector).forEach(element => found.push(element));
  root.querySelectorAll('*').forEach(element => {
    if (element.shadowRoot) walk(element.shadowRoot);
    if (element.nodeName === 'IFRAME') { try { walk(element.contentDocument) } catch (error) {} }
  });
}
walk(document);
return found;
"""


def missing_programs() -> list[str]:
    """Names what has to be installed: Debian's packages chromium and chromium-driver."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


@contextlib.contextmanager
def chromium(width: int = 1500, height: int = 1000, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Starts a browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"]
    # Without a GPU, the Projector needs WebGL in software.
    arguments += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars"]
    for argument in [*arguments, *(["--force-dark-mode"] if dark else [])]:
        options.add_argument(argument)
    # A page counts as loaded when its text is there: the browser's own event may never come on a busy machine.
    options.page_load_strategy = "none"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """Serves a folder of runs and gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until(
            lambda: urllib.request.urlopen(f"{address}/data/runs", timeout=5).read() not in (b"", b"[]"), "TensorBoard"
        )
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            server.kill()


def open_page(driver: webdriver.Chrome, file: Path) -> None:
    """Opens a file and waits until its scripts have run."""
    driver.get(file.as_uri())
    until(
        lambda: driver.execute_script("return [location.pathname, document.readyState].join()") == f"{file},complete",
        f"{file}",
    )


def look_through_a_phone(driver: webdriver.Chrome) -> None:
    """Makes the page as narrow as a phone: no window can be."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def page_text(driver: webdriver.Chrome) -> str:
    """All text of the page, that of components and frames included."""
    text: str = driver.execute_script(_READ_PAGE)
    return text


def find_all(driver: webdriver.Chrome, selector: str) -> list[Any]:
    """All elements of a selector, those in components and frames included."""
    found: list[Any] = driver.execute_script(_FIND_ALL, selector)
    return found


def wait_for_text(driver: webdriver.Chrome, *texts: str) -> None:
    """Waits until the page holds all the texts."""
    until(lambda: all(text in page_text(driver) for text in texts), lambda: f"{texts} in: {page_text(driver)[:3000]}")


def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 180) -> None:
    """Waits for a condition; one that raises does not hold yet.

    Raises:
        AssertionError: If it never holds.
    """
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Exception):
            if condition():
                return
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.3)


def severe_messages(driver: webdriver.Chrome) -> list[str]:
    """Errors on the console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]


def requested_addresses(driver: webdriver.Chrome) -> list[str]:
    """Every address that pages have asked for since the last call."""
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]  # type: ignore[no-untyped-call]
    return [entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]


def unfold(driver: webdriver.Chrome) -> None:
    """Opens the groups of tags that TensorBoard has folded: all but the first two."""
    until(lambda: find_all(driver, "button.heading"), "groups of tags")

    def folded() -> list[Any]:
        return find_all(driver, "button.heading:not([open-button])")

    def click() -> bool:
        # Elements are replaced while the page is still being built: another try finds the new ones.
        for heading in folded():
            driver.execute_script("arguments[0].click()", heading)
        time.sleep(1)
        return not folded()

    until(click, "all groups of tags open")
