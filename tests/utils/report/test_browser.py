"""report.html in a real browser, headless. Skipped without selenium (requirements-browser.txt), a Chromium and its driver."""

import json
import os
import shutil

import pytest
from run_folders import DIGITS, make_run, settings_of

from utils.report.report import make_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = """
return [...document.querySelectorAll(arguments[0])].map((element) => {
  const box = element.getBoundingClientRect();
  return [box.width, box.height];
})"""


def program(variable, *names):
    """The program that an environment variable names, or else the first that is on the PATH; skips the test without any."""
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip(f"no {names[0]} on the PATH, and {variable} is not set")
    return found


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that logs its console and its requests."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program("CHROMIUM", *BROWSERS)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(program("CHROMEDRIVER", "chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        yield driver


@pytest.fixture
def opened(browser, whole_report):
    """The browser with the page, fresh, in a window of 1200 x 900."""
    resize(browser, 1200, 900)
    browser.get((whole_report[1] / "report.html").as_uri())
    return browser


def resize(browser, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(browser, scheme):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def test_nothing_is_complained_of_and_nothing_is_fetched(opened):
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert urls
    assert {url for url in urls if not url.startswith("data:")} == {opened.current_url}


def test_every_picture_is_drawn(opened):
    sizes = opened.execute_script(SIZES, "figure svg")
    assert len(sizes) == 5
    assert all(width > 600 and height > 200 for width, height in sizes)
    points = opened.execute_script("return [...document.querySelectorAll('figure svg')].map((e) => e.viewBox.baseVal.width)")
    assert all(width <= 4 / 3 * own + 1 for (width, _), own in zip(sizes, points, strict=True))  # pixels: none is enlarged
    for selector in ("figure svg text", "figure svg [id*=axes_1]"):
        drawn = opened.execute_script(SIZES, selector)
        assert len(drawn) >= 5
        assert all(width > 0 and height > 0 for width, height in drawn)
    used = "return [...document.querySelectorAll('svg use')].every((e) => document.querySelector(e.getAttribute('href')))"
    assert opened.execute_script(used)


def test_a_map_is_shown(browser, report_with_layers):
    """Its image is a part of the page, which the page's policy lets pass."""
    browser.get((report_with_layers[1] / "report.html").as_uri())
    assert browser.get_log("browser") == []
    maps = browser.execute_script(SIZES, "figure[id^=picture-flip_map] image")
    assert len(maps) == 2 * 3  # each with its scale
    assert all(width > 5 and height > 100 for width, height in maps)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drawings_have_the_colours_of_the_page(opened, scheme):
    prefer(opened, scheme)
    colour = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    ink, paper = (opened.execute_script(colour, "body", name) for name in ("color", "backgroundColor"))
    assert opened.execute_script(colour, "figure svg text", "fill") == ink
    assert opened.execute_script(colour, "figure svg [id$=patch_1] path", "fill") == paper
    red_of_ink, red_of_paper = (int(value[4:].split(",")[0]) for value in (ink, paper))
    assert (red_of_ink < red_of_paper) == (scheme == "light")


def column(opened, index):
    return opened.execute_script(
        "return [...document.querySelectorAll('#table1 ~ div tbody tr')].map((row) => row.cells[arguments[0]].textContent)", index
    )


def test_a_click_or_the_keyboard_sorts_a_table_by_its_numbers(opened):
    paper = column(opened, 2)
    buttons = opened.find_elements("css selector", "#table1 ~ div th button")
    states = lambda: [b.find_element("xpath", "..").get_attribute("aria-sort") for b in buttons]  # noqa: E731
    assert states() == [None] * len(buttons)
    buttons[2].click()
    assert column(opened, 2) == sorted(paper, key=lambda text: float(text.split()[0])) != paper
    assert states()[2] == "ascending"
    buttons[2].send_keys("\ue007")  # Enter
    assert column(opened, 2) == sorted(paper, key=lambda text: float(text.split()[0]), reverse=True)
    assert states()[2] == "descending"
    buttons[4].send_keys(" ")  # ours: one row has a value, and empty fields are last in either direction
    assert states()[2] is None
    for _ in range(2):
        assert column(opened, 4)[0].startswith("80.598")
        assert set(column(opened, 4)[1:]) == {""}
        buttons[4].click()
    assert sorted(column(opened, 2)) == sorted(paper)  # whole rows, none lost


def test_sorting_compares_numbers_then_words_with_numbers_in_them(opened):
    texts = ["ResNet110", "", "ResNet20", "-1.5", "+10, p = 0.1", "9", "not finite", "10.25 (3)", "10.3"]
    script = "return arguments[0].sort((a, b) => compare(a, b, arguments[1]))"
    ordered = ["-1.5", "9", "+10, p = 0.1", "10.25 (3)", "10.3", "not finite", "ResNet20", "ResNet110"]
    assert opened.execute_script(script, texts, 1) == [*ordered, ""]
    assert opened.execute_script(script, texts, -1) == [*ordered[4::-1], *ordered[:4:-1], ""]


def test_a_link_unfolds_what_it_leads_to(opened):
    link = opened.find_element("css selector", "#other_runs ~ div tbody tr td:nth-child(3) a")
    fold = opened.find_element("css selector", link.get_attribute("hash"))
    assert fold.get_attribute("open") is None
    link.click()
    assert fold.get_attribute("open") is not None
    assert abs(fold.rect["y"] - opened.execute_script("return scrollY")) < 900


def test_in_a_narrow_window_tables_and_pictures_scroll_in_their_boxes(opened):
    resize(opened, 400, 900)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 400
    wide = opened.execute_script("return [...document.querySelectorAll('.wide')].map((e) => [e.clientWidth, e.scrollWidth])")
    assert len(wide) == 7 + 5
    assert all(inner <= 400 for inner, _ in wide)
    assert sum(outer > inner for inner, outer in wide) > 8
    hint = "return [...document.querySelectorAll('.wide')].map((e) => getComputedStyle(e, '::before').content.includes('scroll'))"
    assert opened.execute_script(hint) == [outer > inner for inner, outer in wide]
    faded = "return getComputedStyle(document.querySelector('#other_runs ~ div')).maskImage"
    assert opened.execute_script(faded).startswith("linear-gradient")
    opened.execute_async_script("document.querySelector('#other_runs ~ div').scrollLeft = 1e4; setTimeout(arguments[0], 100)")
    assert opened.execute_script(faded) == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_table_of_runs_fits_a_window_of_1300_with_a_long_reason(browser, tmp_path, scheme):
    why = f"{tmp_path / 'runs' / 'one'} stopped after 5 iterations; rerun without --stop-after to continue"
    settings = settings_of(
        DIGITS, epochs=12, validation=200, batch_size=64, clip=1.0, pretrained="none", results_root=str(tmp_path)
    )
    make_run(tmp_path / "runs" / "one", DIGITS, state="running", error=why, settings=settings | {"validation": None})
    make_run(tmp_path / "runs" / "two", DIGITS, 2)
    make_report([tmp_path / "runs"])[0].write(tmp_path / "out")
    prefer(browser, scheme)
    resize(browser, 1300, 900)
    browser.get((tmp_path / "out" / "report.html").as_uri())
    fits = "const box = document.querySelector('#other_runs ~ div'); return box.scrollWidth <= box.clientWidth"
    assert browser.execute_script(fits)
    assert all(height < 130 for _, height in browser.execute_script(SIZES, "#other_runs ~ div tbody tr"))
