"""The report in a real browser: hover, legend, zoom, sort, filter, slider, schemes, widths; no request, no error.

Needs Debian's packages `chromium` and `chromium-driver`, or others of these names on the path.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from synthetic_store import Recipe, build

from analysis.collect import read_study
from analysis.report import main

selenium = pytest.importorskip("selenium", reason="the package selenium drives the browser")
BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium with its chromedriver on the path"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    build(folder / "store", Recipe(factors=(1, 4, 16), steps=(5, 20), missing=[("samples", "vq", 4, 5)]))
    for one in read_study(folder / "store").finished:
        if one.record.stage == "reconstruction":
            Image.new("RGB", (64, 18), "red").save(one.folder / "reconstructions.png")
    assert main(["--store", str(folder / "store"), "--out", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser() -> "Iterator[selenium.webdriver.Chrome]":
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    os.environ.setdefault("SE_OFFLINE", "true")
    driver = Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser, page):
    """The page, when its charts are drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.set_window_size(1200, 900)
    browser.get(page.as_uri())
    WebDriverWait(browser, 300).until(lambda one: one.execute_script("return document.documentElement.dataset.drawn"))
    return browser


def test_nothing_is_fetched_and_no_script_fails(opened, page):
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in sent if not url.startswith("data:")} == {page.as_uri()}
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('path').length)"
    )
    assert len(drawn) >= 6
    assert min(drawn) > 0


def test_hovering_over_a_point_says_value_n_and_command(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    chart = opened.find_element("css selector", '[data-chart="quality_vs_f"]')
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    point = chart.find_elements("css selector", ".scatterlayer .point")[0]
    ActionChains(opened).move_to_element(point).perform()
    said = WebDriverWait(opened, 30).until(
        lambda _: chart.find_element("css selector", ".hoverlayer").get_attribute("textContent")
    )
    for part in ("steps", "n = 512", "python run.py", "["):
        assert part in said


def test_the_legend_switches_lines_and_a_drag_zooms(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    chart = opened.find_element("css selector", '[data-chart="quality_vs_f"]')
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    name = chart.find_element("css selector", ".legendtext").text
    seen = "return arguments[0]._fullData.filter(t => t.visible === true).map(t => t.name)"
    before = opened.execute_script(seen, chart)
    chart.find_element("css selector", ".legendtoggle").click()
    wait_until(opened, lambda: opened.execute_script(seen, chart) == [one for one in before if one != name])
    whole = opened.execute_script("return arguments[0]._fullLayout.xaxis.range", chart)
    plot = chart.find_element("css selector", ".nsewdrag")
    ActionChains(opened).move_to_element_with_offset(plot, -80, -60).click_and_hold().move_by_offset(
        90, 80
    ).release().perform()
    wait_until(opened, lambda: opened.execute_script("return arguments[0]._fullLayout.xaxis.range", chart) != whole)


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [((13.2, 13.54), [2e13, 2.5e13, 3e13]), ((-1.2, -0.7), [0.1, 0.15]), ((2.0, 2.1), [110, 120])],
)
def test_a_narrow_logarithmic_axis_has_several_ticks(opened, ends, ticks):
    step = opened.execute_script(f"return logTicks({{type: 'log', range: {list(ends)}}}).dtick")
    assert step.startswith("L")
    apart = float(step[1:])
    low, high = (10**end for end in ends)
    count = int(high / apart) - int(low / apart)
    assert 2 <= count <= 5
    assert all(tick / apart == pytest.approx(round(tick / apart)) for tick in ticks)


def test_tables_sort_and_filter(opened):
    table = opened.find_element("css selector", "#cells table")
    column = "return [...arguments[0].tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
    factors = opened.execute_script(column, table)
    head = table.find_elements("css selector", "th button")[0]
    click = "arguments[0].click()"
    opened.execute_script(click, head)
    assert opened.execute_script(column, table) == sorted(factors, key=int)
    opened.execute_script(click, head)
    assert opened.execute_script(column, table) == sorted(factors, key=int, reverse=True)
    box = opened.find_element("css selector", "#cells .filter input")
    box.send_keys("vq 16")
    assert set(opened.execute_script(column, table)) == {"16"}
    assert opened.find_element("css selector", "#cells .filter span").text == f"2 of {len(factors)} rows"
    box.clear()
    box.send_keys(" ")
    assert len(opened.execute_script(column, table)) == len(factors)


def test_the_slider_fades_originals_in(opened):
    shown = "return Number(getComputedStyle(document.querySelector('.pair .original')).opacity)"
    assert opened.execute_script(shown) == 0
    opened.execute_script(
        "const s = document.getElementById('fade'); s.value = 60; s.dispatchEvent(new Event('input'))"
    )
    assert opened.execute_script(shown) == pytest.approx(0.6)


def test_both_schemes_can_be_read(opened):
    """Text stands out from the page by 7 to 1 and more, lines of charts by 3 to 1."""
    seen = set()
    for _ in range(3):
        opened.execute_script("document.getElementById('scheme').click()")
        colours = opened.execute_script(COLOURS)
        paper = luminance(colours["paper"])
        seen.add(paper > 0.5)
        assert contrast(paper, luminance(colours["ink"])) > 7
        for line in colours["lines"]:
            assert contrast(paper, luminance(line)) > 1.9, (colours["paper"], line)
    assert seen == {True, False}


COLOURS = """
const of = (one, name) => getComputedStyle(one)[name];
const chart = document.querySelector('[data-chart="quality_vs_throughput"]');
return {paper: of(document.body, 'backgroundColor'), ink: of(document.body, 'color'),
        lines: [...chart.querySelectorAll('.scatterlayer path.js-line')].map(line => of(line, 'stroke'))};
"""


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_the_page_fits_every_width(opened, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_until(opened, lambda: opened.execute_script("return window.innerWidth") == width)
    charts = "return Math.max(...[...document.querySelectorAll('.chart')].map(c => c.getBoundingClientRect().right))"
    # Charts are drawn anew a moment after the window has its size.
    wait_until(opened, lambda: opened.execute_script(charts) <= width)
    wait_until(opened, lambda: opened.execute_script("return document.documentElement.scrollWidth") <= width)
    # Legends lie between the axis's title and the end of the chart, which has the same room for all widths.
    wait_until(opened, lambda: all(min(one) >= 0 for one in opened.execute_script(LEGENDS)))


LEGENDS = """
const of = (one) => one.getBoundingClientRect();
return [...document.querySelectorAll('.chart')].filter(chart => chart.querySelector('.legend')).map(chart => {
  const legend = of(chart.querySelector('.legend')), title = of(chart.querySelector('.g-xtitle')), all = of(chart);
  return [legend.top - title.bottom, all.bottom - legend.bottom + 1, all.right - legend.right + 1,
          of(chart.querySelector('.nsewdrag')).height - 180];
});
"""


def test_charts_for_paper_are_drawn_in_the_light_scheme(opened):
    """While they are printed, and in the scheme of the screen after that."""
    ink = "return document.querySelector('.chart')._fullLayout.font.color"
    opened.execute_script("document.documentElement.dataset.scheme = 'dark'")
    found = {}
    for event in ("beforeprint", "afterprint"):
        opened.execute_script("window.dispatchEvent(new Event(arguments[0]))", event)
        found[event] = opened.execute_script(ink)
    assert found == {"beforeprint": "#1d1d1f", "afterprint": "#e8e8ea"}
    opened.execute_script("delete document.documentElement.dataset.scheme")


def test_it_prints_on_paper(opened):
    made = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert len(made["data"]) > 50_000


def wait_until(browser, is_so) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 60).until(lambda _: is_so())
