"""The page in a real browser: it loads alone, answers, hides and sorts."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flatscale.report import ReportPaths, write_study_report, write_table_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page_path(full_report: ReportPaths) -> Path:
    return full_report.page


@pytest.fixture
def page(browser: Any, page_path: Path) -> Any:
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page_path.as_uri())
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    return browser


def wait_for(browser: Any, script: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(script))


FOLDS = "[...document.querySelectorAll('.fold > details, details.more')]"
OPEN_ALL = f"{FOLDS}.forEach(d => {{ d.open = true; }})"
ALL_DRAWN = (
    "return Object.keys(flatscaleViews).length === document.querySelectorAll('.chart').length"
)


def open_all(browser: Any) -> None:
    browser.execute_script(OPEN_ALL)
    wait_for(browser, ALL_DRAWN)


def at(browser: Any, width: int, height: int = 844) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")


def test_it_loads_without_a_console_message(page: Any) -> None:
    open_all(page)
    assert page.get_log("browser") == []


def test_it_asks_the_network_for_nothing(page: Any, page_path: Path) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page_path.as_uri()]


def test_every_chart_is_drawn(page: Any) -> None:
    open_all(page)
    drawn = page.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.chart')].map("
        "c => [c.id, c.querySelectorAll('svg.marks path').length]))"
    )
    assert {
        "chart-scatter",
        "chart-linked",
        "chart-levels",
        "chart-explorer",
        "chart-trajectories",
    } <= set(drawn)
    assert all(paths > 5 for paths in drawn.values()), drawn


def test_the_scatter_answers_a_hover_with_the_name_of_the_trial(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    chart = page.find_element(By.ID, "chart-scatter")
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart
    )
    marks = chart.find_elements(By.CSS_SELECTOR, ".mark-symbol.role-mark path")
    names = {p["name"] for p in page.execute_script("return flatscaleViews.scatter.data('trials')")}
    ActionChains(page).move_to_element(marks[-1]).perform()
    wait_for(page, "return document.querySelector('#vg-tooltip-element.visible') !== null")
    tooltip = page.find_element(By.ID, "vg-tooltip-element").text
    assert any(name in tooltip for name in names), tooltip
    assert "sharpness" in tooltip


def test_a_family_is_switched_off_and_on_by_its_legend(page: Any) -> None:
    from selenium.webdriver.common.by import By

    def drawn() -> int:
        selector = "#chart-scatter .mark-symbol.role-mark path"
        return len(page.find_elements(By.CSS_SELECTOR, selector))

    everything = drawn()
    labels = page.find_elements(By.CSS_SELECTOR, "#chart-scatter .role-legend-label text")
    label = next(label for label in labels if label.text == "vgg11")
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", label
    )
    panels = page.execute_script(
        "return document.querySelectorAll('#chart-scatter .mark-symbol.role-mark').length"
    )
    per_panel = page.execute_script(
        "return flatscaleViews.scatter.data('trials').filter(d => d.family === 'vgg11').length"
    )
    label.click()
    wait_for(
        page,
        "return document.querySelectorAll('#chart-scatter .mark-symbol.role-mark path').length "
        f"=== {everything - panels * per_panel}",
    )
    label.click()
    wait_for(
        page,
        "return document.querySelectorAll('#chart-scatter .mark-symbol.role-mark path').length "
        f"=== {everything}",
    )


def test_any_axis_colours_and_facets_the_first_figure(page: Any) -> None:
    def choose(name: str, label: str) -> None:
        page.execute_script(
            "const [name, label] = arguments;"
            "const lists = [...document.querySelectorAll('#chart-scatter select')];"
            "const list = lists.find((one) => one.name === name);"
            "list.selectedIndex = [...list.options].findIndex((o) => o.text === label);"
            "list.dispatchEvent(new Event('change'));",
            name,
            label,
        )

    def texts(selector: str) -> str:
        found = f"[...document.querySelectorAll('#chart-scatter {selector} text')]"
        return page.execute_script(f"return {found}.map((text) => text.textContent).join('|')")

    marks = "#chart-scatter .mark-symbol.role-mark path"
    count = f"return document.querySelectorAll('{marks}').length"
    panels = "return document.querySelectorAll('#chart-scatter .cell > g').length"
    number = page.execute_script(count)
    assert "vgg11" in texts(".role-legend-label")
    choose("colour", "batch_size")
    wait_for(page, "return !document.querySelector('#chart-scatter .role-legend').textContent"
             ".includes('vgg11')")  # fmt: skip
    assert texts(".role-legend-label") == "8|32"
    choose("facet", "learning_rate")
    wait_for(page, f"{panels} > 1")
    rates = page.execute_script("return flatscaleViews.scatter.data('trials').map((d) => d.a0)")
    assert page.execute_script(panels) == len(set(rates))
    assert all(f"|{rate}|" in f"|{texts('')}|" for rate in rates)
    # Every network once, and the colour stays chosen.
    assert page.execute_script(count) == number
    assert texts(".role-legend-label") == "8|32"
    assert page.get_log("browser") == []
    choose("facet", "none")
    wait_for(page, f"{panels} === 0")


def test_tables_sort_by_number_both_ways(page: Any) -> None:
    from selenium.webdriver.common.by import By

    open_all(page)
    table = page.find_element(By.CSS_SELECTOR, "table[data-key=flow]")
    button = table.find_elements(By.CSS_SELECTOR, "th button")[1]
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button
    )

    def column() -> list[int]:
        return [
            int(cell.text) for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(2)")
        ]

    before = column()
    button.click()
    assert column() == sorted(before)
    button.click()
    assert column() == sorted(before, reverse=True)


def test_a_name_with_markup_stays_text(page: Any, nasty_family: str) -> None:
    text = page.execute_script("return document.body.textContent")
    assert nasty_family in text
    assert page.execute_script("return document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize("width", [390, 1200, 2000])
def test_no_screen_scrolls_sideways_and_charts_fill_it(page: Any, width: int) -> None:
    try:
        at(page, width)
        open_all(page)
        wait_for(page, "return !document.getAnimations().length")
        widths = page.execute_script(
            "return [document.documentElement.scrollWidth, ...[...document.querySelectorAll("
            "'.chart svg.marks')].map(svg => svg.getBoundingClientRect().right)]"
        )
        assert max(widths) <= width, widths
        filled = page.execute_script(
            "return Object.fromEntries([...document.querySelectorAll('.chart')].map(c => [c.id, "
            "c.querySelector('svg.marks').getBoundingClientRect().width / c.clientWidth]))"
        )
        assert min(filled.values()) > 0.8, filled
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_first_screen_holds_the_answer_its_figure_and_its_robustness(page: Any) -> None:
    try:
        at(page, 1200, 900)
        tops = page.execute_script(
            "return ['.lead', '#chart-scatter svg.marks', '#table-robustness tbody tr.em']"
            ".map(s => document.querySelector(s).getBoundingClientRect())"
            ".map(box => [box.top, box.bottom])"
        )
        assert all(0 < top < 500 for top, _ in tops), tops
        assert tops[1][1] < 900
        assert page.execute_script(f"return {FOLDS}.every(d => !d.open)")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_search_opens_what_it_finds(page: Any) -> None:
    from selenium.webdriver.common.by import By

    field = page.find_element(By.ID, "search")
    field.send_keys("mobilevit random-effects")
    assert "Nothing found" in page.find_element(By.ID, "results").text
    field.clear()
    field.send_keys("CUDA out of memory")
    covered = page.execute_script(
        "return [...document.querySelectorAll('#results button')]"
        ".map(b => b.getBoundingClientRect())"
        ".some(b => !document.elementFromPoint(b.right - 9, b.top + 9).closest('#results'))"
    )
    assert not covered
    (found, *_) = page.find_elements(By.CSS_SELECTOR, "#results button")
    assert "Trials that are not used" in found.text
    found.click()
    hit = page.find_element(By.CSS_SELECTOR, "tr.hit")
    assert "CUDA out of memory" in hit.text
    wait_for(
        page,
        "const {top, bottom} = document.querySelector('tr.hit').getBoundingClientRect();"
        "return top > 0 && bottom < window.innerHeight",
    )


def test_the_contents_open_a_section_and_follow_the_scroll(page: Any) -> None:
    from selenium.webdriver.common.by import By

    page.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    link = page.find_element(By.CSS_SELECTOR, "nav a[href='#estimators']")
    link.click()
    wait_for(page, "return document.querySelector('#estimators details').open")
    current = "return document.querySelector('nav a[aria-current]').hash"
    wait_for(page, f"{current} === '#estimators'")
    table = page.find_element(By.CSS_SELECTOR, "#table-estimators td")
    assert table.is_displayed()
    page.execute_script("window.scrollTo(0, 0)")
    wait_for(page, f"{current} === '#summary'")


def test_a_wide_table_says_that_there_is_more_and_keeps_its_first_column(page: Any) -> None:
    open_all(page)
    scroll = "document.querySelector('#table-correlations .scroll')"
    frame = f"{scroll}.parentElement.classList"
    wait_for(page, f"return {frame}.contains('right')")
    left = f"{scroll}.querySelector('tbody td').getBoundingClientRect().left"
    before = page.execute_script(f"return {left}")
    page.execute_script(f"{scroll}.scrollLeft = 1e6")
    wait_for(page, f"return {frame}.contains('left') && !{frame}.contains('right')")
    assert page.execute_script(f"return {left}") == pytest.approx(before, abs=1)


def test_print_opens_and_draws_everything(page: Any, page_path: Path) -> None:
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(f"return {FOLDS}.every(d => d.open)")
    wait_for(page, ALL_DRAWN)
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(f"return {FOLDS}.every(d => !d.open)")
    printed = page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    assert page.execute_script(ALL_DRAWN)


def test_a_table_without_families_gives_a_page_without_a_message(
    browser: Any, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    table = pl.DataFrame({"x </script>": values[:, 0], "y": values[:, 0] + values[:, 1]})
    paths = write_table_report(table, x="x </script>", y="y", out=tmp_path, num_resamples=100)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(paths.page.as_uri())
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    assert browser.get_log("browser") == []
    title = browser.execute_script("return document.querySelector('#primary h2').textContent")
    assert title == "y against x </script>"


def test_a_brush_in_one_panel_fades_the_others_points(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    def opacities() -> set[str]:
        marks = page.find_elements(By.CSS_SELECTOR, "#chart-linked .mark-symbol.role-mark")
        return {
            mark.get_attribute("opacity")
            for mark in marks[-1].find_elements(By.CSS_SELECTOR, "path")
        }

    open_all(page)
    chart = page.find_element(By.ID, "chart-linked")
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart
    )
    assert len(opacities()) == 1
    inside = chart.find_elements(By.CSS_SELECTOR, ".mark-symbol.role-mark path")[10]
    drag = ActionChains(page).move_to_element(inside).move_by_offset(-30, -30).click_and_hold()
    drag.move_by_offset(30, 30).move_by_offset(30, 30).release().perform()
    assert len(opacities()) == 2


def test_a_page_without_any_usable_trial_loads_and_says_why(
    browser: Any, empty_store: Path, tmp_path: Path
) -> None:
    page = write_study_report(empty_store, out=tmp_path).page
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(page.as_uri())
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    assert browser.get_log("browser") == []
    alert = browser.execute_script("return document.querySelector('[role=alert]').textContent")
    assert "None of the 40 planned trials can be used" in alert
