"""The report in a real browser: it opens without complaints, its controls work, by keyboard too."""

import shutil

import pytest
from axe_core_python.sync_playwright import Axe

from tests import browser
from utils.cli.options.choices import CLASSES
from utils.cli.options.sections import ReportOptions, ReportStage
from utils.stages.classify.files import read_summary
from utils.stages.report import page as report

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "device_scale_factor": 2}
WAYS = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": PHONE}


@pytest.fixture(scope="module")
def chrome():
    with browser.started() as result:
        yield result


@pytest.fixture
def opened(chrome, sweep):
    """Open the page of the sweep; at the end nothing may have gone wrong, nor been asked for."""
    contexts, complaints, asked = [], [], []

    def opened(path=sweep[0] / "report.html", **options):
        contexts.append(chrome.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]


def shown_panels(page):
    return [p.get_attribute("data-k") for p in page.locator(".panel").all() if p.is_visible()]


@pytest.mark.parametrize("way", WAYS)
def test_it_reads_well_by_light_by_night_and_on_a_phone(opened, way):
    """No rule of axe (WCAG 2, level AA, contrast among them) is broken; nothing is cut off."""
    page = opened(**WAYS[way])
    result = Axe().run(page)
    assert not result["violations"], [
        (rule["id"], rule["nodes"][0]["html"][:200]) for rule in result["violations"]
    ]
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    if way != "phone":
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(light.split("(")[1].split(",")[0]) > 127) == (way == "light")


def test_one_k_is_shown_at_a_time_and_the_slider_chooses_it(opened):
    page = opened()
    assert shown_panels(page) == ["2"]
    page.locator("#size").focus()
    page.keyboard.press("ArrowRight")
    assert shown_panels(page) == ["8"]
    assert page.locator("#size-told").inner_text() == "K = 8"
    assert page.locator("#histogram-k").inner_text() == "K = 8"
    assert page.locator("#size").get_attribute("aria-valuetext") == "K = 8"
    page.keyboard.press("ArrowRight")  # past the end
    assert shown_panels(page) == ["8"] and page.locator("#larger").is_disabled()
    page.locator("#smaller").click()
    assert shown_panels(page) == ["2"]
    image = page.locator(".panel:visible .tile img").first
    assert image.evaluate("i => i.complete && i.naturalWidth") == 8


def cells_of(page):
    rows = page.locator("#shares tbody tr").all()
    return {int(r.locator("th").inner_text()): r.locator("td").all_inner_texts() for r in rows}


def test_other_thresholds_are_counted_and_the_way_back_is_exact(opened, sweep):
    page = opened()
    start = cells_of(page)
    for k, cells in start.items():
        row = read_summary(sweep[0] / "identified" / "summary" / f"{k}.json")["row"]
        both = [(row[f"{n}_share"], row[f"{n}_control"]) for n in CLASSES]
        assert cells == [str(row["N"]), *(f"{100 * a:.1f} % ({100 * b:.1f} %)" for a, b in both)]
    assert "the thresholds of this run" in page.locator("#shares-told").inner_text()
    for limit in ("#limit-0", "#limit-1"):
        page.locator(limit).focus()
        page.keyboard.press("End")
    changed = cells_of(page)
    assert all(
        cells[1].startswith("100.0 %") for cells in changed.values()
    )  # everything is memorized
    page.locator("#limit-0").focus()
    page.keyboard.press("Home")
    assert all(
        cells[2].startswith("100.0 %") for cells in cells_of(page).values()
    )  # all is near another
    assert "the thresholds of this run" not in page.locator("#shares-told").inner_text()
    assert page.locator("#histogram-0 rect.spurious").count() > 0
    assert page.locator("#histogram-0 rect.memorized").count() == 0
    page.locator("#back").click()
    assert cells_of(page) == start


def test_bars_add_up_to_the_samples(opened):
    """Heights of a histogram, in units of its axis, are counts."""
    page = opened()
    for side in (0, 1):
        svg = page.locator(f"#histogram-{side} svg")
        most = int(svg.locator("text").nth(0).text_content())
        heights = svg.locator("rect").evaluate_all("rs => rs.map(r => +r.getAttribute('height'))")
        assert sum(heights) / (220 - 44 - 24) * most == pytest.approx(120, abs=0.01)
        assert f"samples up to {'ds'[side]}₁ / δ" in page.locator(
            f"#histogram-{side}"
        ).get_attribute("aria-label")


def test_everything_is_there_without_scripts(opened):
    page = opened(java_script_enabled=False)
    assert shown_panels(page) == ["2", "8"]
    assert page.locator("#chooser").is_hidden() and page.locator("#what-if").is_hidden()
    assert page.get_by_text("Sliders and histograms need JavaScript").is_visible()


def test_links_lead_to_their_sections_and_commands_unfold(opened):
    page = opened()
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(link.get_attribute("href")).bounding_box()["y"] < 800
    command = page.locator("details.command").first
    assert not command.locator("pre").is_visible()
    command.locator("summary").focus()
    page.keyboard.press("Enter")
    assert "python run_classify.py" in command.locator("pre").inner_text()


def test_a_part_of_a_sweep_opens_too(opened, sweep, tmp_path):
    shutil.copytree(sweep[0] / "synthetics", tmp_path / "synthetics")
    page = opened(report.run(ReportStage(ReportOptions(tmp_path))))
    page.locator("#larger").click()
    assert shown_panels(page) == ["8"]
    assert page.locator(".panel:visible .tile").count() == 12
