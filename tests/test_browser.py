"""What a person sees in a browser: TensorBoard's tabs and the report, of a finished run.

Pictures of every page are left in ``logs/screenshots`` of the test's folder, or in the folder that SCREENSHOTS names.
"""

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from conftest import UNBOUNDED, fit_arguments
from selenium import webdriver

from lightning_transfer.cli.entry import main

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(browser.missing_programs()),
        reason=f"needs {', '.join(browser.missing_programs())}: apt-get install chromium chromium-driver",
    ),
]
GRADUAL = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"until": {"steps": 3}}}


@pytest.fixture(scope="module")
def logs(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with two finished runs."""
    folder = tmp_path_factory.mktemp("finished") / "logs"
    for seed in ("0", "1"):
        flags = ("--trainer.callbacks+", json.dumps(GRADUAL), "--dashboards.every_n_steps", "2", *UNBOUNDED)
        often = ("--trainer.log_every_n_steps", "3", "--trainer.max_epochs", "2", "--test_after_fit", "true")
        main(fit_arguments(image_folder, *flags, *often, "--seed_everything", seed, "--logs", str(folder)))
    return folder


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("logs") / "screenshots").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def served(logs: Path) -> Iterator[str]:
    with browser.tensorboard(logs) as address:
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with browser.chromium() as started:
        yield started


TABS = {
    "timeseries": ("attribution", "gradient_norm", "phase", "default/version_0"),
    "scalars": ("gradient_norm/convolution1", "default/version_0"),
    "custom_scalars": ("Learning", "validation accuracy", "Learning rate, 0 while frozen", "convolution1", "Speed"),
    "images": ("attribution/grad_cam", "phase/timeline", "training/examples", "validation/confusion_matrix"),
    "projector": ("Points: 9", "Dimension: 9", "after", "before", "Total variance described"),
    "hparams": ("strategy", "seed", "training examples", "gradual", "test/accuracy", "default/version_1"),
    "text": ("phase/transitions", "phase 5 begins", "run/card", "To repeat", "network: class_path"),
    "graphs": ("Main Graph",),
}


@pytest.mark.parametrize("tab", TABS)
def test_tensorboard_shows_the_run_in(tab: str, served: str, driver: webdriver.Chrome, screenshots: Path) -> None:
    driver.get("about:blank")
    driver.get(f"{served}/#{tab}")
    if tab in ("images", "text"):
        browser.unfold(driver)
    try:
        browser.wait_for_text(driver, *TABS[tab])
    finally:
        driver.save_screenshot(str(screenshots / f"tensorboard_{tab}.png"))
    assert not browser.severe_messages(driver)


def test_every_chart_of_custom_scalars_finds_its_curves(served: str) -> None:
    def ask(what: str, **query: str) -> Any:
        address = f"{served}/data/plugin/custom_scalars/{what}?{urllib.parse.urlencode(query)}"
        return json.load(urllib.request.urlopen(address, timeout=60))

    charts = [chart for category in ask("layout")["category"] for chart in category["chart"]]
    assert len(charts) > 5
    for chart in charts:
        for tag in chart["multiline"]["tag"]:
            assert ask("scalars", run="default/version_0", tag=tag)["tag_to_events"], (chart["title"], tag)


# Where the test accuracies end.
_RIGHT_OF_THE_TEST = """
return Math.max(...[...document.querySelectorAll('.results tr > :nth-child(2)')].map(
  cell => cell.getBoundingClientRect().right));
"""


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_report_opens_without_errors_and_asks_no_host(device: str, logs: Path, screenshots: Path) -> None:
    run = logs / "default" / "version_0"
    main(["report", str(logs)])
    main(["report", str(run)])
    with browser.chromium(1200, 1400) as driver:
        if device == "phone":
            browser.look_through_a_phone(driver)
        for page, content in ((logs, "Validation accuracy"), (run, "Top losses")):
            browser.open_page(driver, page / "report.html")
            browser.wait_for_text(driver, content, "test accuracy, %")
            driver.save_screenshot(str(screenshots / f"report_{device}_{page.name}.png"))
            # No wider than the window: only tables scroll by themselves.
            wide, window = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide <= window == (390 if device == "phone" else 1200)
            assert driver.execute_script(_RIGHT_OF_THE_TEST) < window
        assert not browser.severe_messages(driver)
        asked = {address.split(":")[0] for address in browser.requested_addresses(driver)}
        assert asked <= {"file", "data"}


def test_report_sorts_its_table_by_the_column_that_is_pressed(logs: Path) -> None:
    main(["report", str(logs)])
    with browser.chromium() as driver:
        browser.open_page(driver, logs / "report.html")
        buttons = browser.find_all(driver, ".results th button")
        [(place, seed)] = [(n, button) for n, button in enumerate(buttons, start=1) if button.text.startswith("seed")]
        orders = []
        for _ in range(2):
            seed.click()
            orders.append([cell.text for cell in browser.find_all(driver, f".results tr > :nth-child({place})")[1:3]])
        assert orders == [["1", "0"], ["0", "1"]]
