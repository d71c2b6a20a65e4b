"""report.html without a browser: what is on the page, that it is whole in itself, and that it says what report.md says."""

import re

import pytest
from conftest import PROJECT
from parsed_page import Page
from run_folders import DIGITS, make_run, make_trial

from utils.choices import methods
from utils.files.markdown import markdown_table
from utils.report.anchors import net_key
from utils.report.document import Section, markdown
from utils.report.formatting import Field, Table
from utils.report.gallery import curves as gallery_curves
from utils.report.page import TEMPLATE, page
from utils.report.pictures import ANOTHER, COLOURS, curve_panels, curves, series_of
from utils.report.report import make_report
from utils.report.trials import Group
from utils.tables.cells import FULL_PRECISION


@pytest.fixture(scope="module")
def whole_page(whole_report):
    return Page((whole_report[1] / "report.html").read_text())


def test_the_page_has_the_tables_of_the_markdown(whole_report, whole_page):
    text = (whole_report[1] / "report.md").read_text()
    assert len(whole_page.tables) == text.count("|\n|---") == 7
    for head, *rows in whole_page.tables:
        assert markdown_table(head, *rows) in text


def test_the_page_is_whole_in_itself(whole_page):
    """No address but those of its own elements and an empty icon; every id once; nothing but its own script may run."""
    ids = whole_page.ids()
    assert len(ids) == len(set(ids))
    policy = {attributes.get("content") for tag, attributes in whole_page.elements if attributes.get("http-equiv")}
    assert len(policy) == 1
    assert re.match(r"default-src 'none'; img-src data:; .* script-src 'sha256-[\w+/]{43}='$", policy.pop())
    for tag, attributes in whole_page.elements:
        assert not {"src", "srcset", "data", "action", "poster"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        address = attributes.get("href", "")
        assert address in ("", "data:,") or address.removeprefix("#") in ids, address
        for value in attributes.values():
            assert set(re.findall(r"url\(#?(.*?)\)", value or "")) <= set(ids)
            assert "@import" not in (value or "")


def test_every_picture_is_on_the_page_and_in_the_markdown(whole_report, whole_page):
    report, folder = whole_report
    text = (folder / "report.md").read_text()
    pictures = [picture for section in report.sections for picture in section.pictures]
    assert [picture.name for picture in pictures] == [
        "table1",
        "figure3",
        "curves_ResNet20_CIFAR10_dorefa_SGD",
        "curves",
        "left_out",
    ]
    assert {path.stem for path in folder.glob("*.svg")} == {picture.name for picture in pictures}
    drawings = [attributes for tag, attributes in whole_page.elements if tag == "svg"]
    assert [drawing["aria-label"] for drawing in drawings] == [picture.caption for picture in pictures]
    for picture in pictures:
        assert f"]({picture.name}.png)\n\n{picture.caption}\n" in text
        assert (folder / f"{picture.name}.png").is_file()
        assert picture.anchor in whole_page.ids()
    assert "![" not in report.markdown()
    assert "## Curves" not in report.markdown()


def test_a_field_links_to_its_curves_and_the_picture_back(whole_page):
    links = [attributes["href"] for tag, attributes in whole_page.elements if tag == "a"]
    for name in ("curves_ResNet20_CIFAR10_dorefa_SGD", net_key("curves", DIGITS), net_key("left_out", DIGITS)):
        assert f"#picture-{name}" in links
    assert "#picture-curves_ResNet20_CIFAR10_dorefa_Adam" not in links  # a row that was not run, and has no picture
    figures = [attributes["id"] for tag, attributes in whole_page.elements if tag == "figure"]
    assert len(figures) == 5
    assert links.count("#claims") == 2  # the navigation's, and the one below the curves that the claims link to


def test_every_recorded_run_has_its_settings_in_a_fold(whole_report, whole_page):
    report, _ = whole_report
    assert [tag for tag, _ in whole_page.elements].count("details") == 3 + 7  # cells, runs
    titles = (
        "trial 3: unfinished, 2 epochs",
        "ResNet20 Digits dorefa SGD MultiFC: 3 runs",
        "ResNet20 CIFAR10 dorefa SGD STE: 2 runs",
    )
    for words in (*titles, "weight_decay", "unfinished, 2 of 12 epochs", *(str(trial.source) for trial in report.trials)):
        assert words in whole_page.text, words
    links = [attributes["href"] for tag, attributes in whole_page.elements if tag == "a"]
    folds = [attributes["id"] for tag, attributes in whole_page.elements if tag == "details" and "id" in attributes]
    assert {f"#{fold}" for fold in folds} <= set(links)


def test_runs_without_a_record_are_counted(tmp_path):
    for trial in (1, 2, 3):
        make_run(tmp_path / f"ResNet20-Digits/Baseline-dorefa-optimizer-SGD-1bits-trial-{trial}", DIGITS, trial)
    for trial in (2, 3):
        (tmp_path / f"ResNet20-Digits/Baseline-dorefa-optimizer-SGD-1bits-trial-{trial}/run.json").unlink()
    settings = make_report([tmp_path])[0].sections[-1]
    assert settings.note.endswith(" 2 runs have no record of the settings.")
    assert len(settings.folds) == 1


def test_a_verdict_has_a_class_of_its_own_beside_its_text(whole_report):
    source = (whole_report[1] / "report.html").read_text()
    assert '<td class="verdict within"><span>within</span></td>' in source
    assert re.search(r'<td class="verdict higher"><span>\+10\.000, p = 0\.005: higher</span></td>', source)


def test_texts_are_escaped_and_a_link_to_nothing_is_none(tmp_path):
    hostile = '</script><script>alert("1")</script>&amp;{{ 7 * 7 }}'
    field = Field(hostile, verdict="not run", target='nowhere"><b>')
    table = Table("t", hostile, [{}], {hostile: lambda r: field, "x": lambda r: "\x1b[31m\u202e"}, hostile)
    made = Page(page([Section.of_table(table), Section("list", hostile, items=[hostile])], tmp_path))
    assert [tag for tag, _ in made.elements if tag in ("script", "b")] == ["script"]
    assert made.text.count(hostile) == 8  # title of the page and of both sections, link to the second, note, head, field, item
    assert r"\x1b[31m\u202e" in made.text
    assert [attributes["href"] for tag, attributes in made.elements if tag == "a"] == ["#list"]


def test_markdown_of_a_section():
    table = Table("one", "Title", [{"a": "x|y"}], {"A": lambda r: Field(r["a"], target="here")}, "Note.")
    assert markdown([Section.of_table(table)]) == "## Title\n\nNote.\n\n| A |\n|---|\n| x\\|y |"
    assert markdown([Section("s", "List", items=["a", "[b]"])], level=1) == "# List\n\n- a\n- \\[b\\]"


def luminance(colour):
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes():
    """The style sheet's colours by name, in the light and in the dark."""
    source = (PROJECT / "utils" / "report" / TEMPLATE).read_text()
    light, dark = re.findall(r":root \{(.*?)\}", source, flags=re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in (light, dark)]


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_everything_can_be_read_in_the_light_and_in_the_dark(theme):
    for name in ("ink", "pale", "link"):
        assert contrast(theme[name], theme["paper"]) >= 4.5
    for name in ("good", "high", "bad", "open"):
        assert contrast(theme[name], theme[f"{name}-paper"]) >= 4.5
    for colour in (*COLOURS.values(), ANOTHER):
        assert contrast(colour, theme["paper"]) >= 3


def test_every_method_has_a_colour_of_its_own():
    assert set(COLOURS) == {FULL_PRECISION, *methods()}
    assert len({ANOTHER, *COLOURS.values()}) == len(COLOURS) + 1


def test_equal_reports_are_equal_files_and_their_texts_are_texts(tmp_path):
    make_run(tmp_path / "runs", DIGITS)
    for name in ("one", "two"):
        make_report([tmp_path / "runs"])[0].write(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    drawing = (tmp_path / "one" / "curves.svg").read_text()
    for text in ("training loss", "test accuracy (%)", "dorefa SGD STE, n = 1"):
        assert re.search(rf"<text [^>]*>{re.escape(text)}</text>", drawing)


def test_a_picture_grows_with_its_legend_which_is_not_endless(tmp_path):
    """Its axes keep their size."""
    heights = []
    for count in (1, 30, 100):
        trials = [make_trial([50.0, 60.0], DIGITS, number) for number in range(count)]
        groups = [Group(trial.cell, f"trial {trial.number}", (trial,)) for trial in trials]
        figure = curves([curve_panels("title", series_of(groups))])
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_position().height * figure.get_figheight())
    assert heights == pytest.approx(heights[:1] * 3, rel=0.1)
    (legend,) = figure.legends
    assert (len(legend.get_texts()), legend.get_title().get_text()) == (60, "the first 60 of 100")


def test_each_net_has_pictures_of_its_own_with_lines_that_can_be_told_apart():
    """A picture has ten lines at most; each line has its own label, and its own colour, style or marker."""
    nets, long = [("ResNet20", 23), ("Odd", 2)], "x" * 200
    cells = [(DIGITS._replace(model=net), f"{long}{number}{long}") for net, count in nets for number in range(count)]
    groups = [Group(cell, label, (make_trial([50.0, 60.0], cell),)) for cell, label in cells]
    pictures = gallery_curves({}, groups, [])
    assert [picture.name for picture in pictures] == ["curves", "curves_2", "curves_3", "curves_4"]
    assert [picture.key for picture in pictures] == [net_key("curves", cells[0][0]), "", "", net_key("curves", cells[-1][0])]
    assert [picture.caption.split(":")[0] for picture in pictures] == ["ResNet20 Digits"] * 3 + ["Odd Digits"]
    assert [picture.caption.split(", ")[-1] for picture in pictures[:3]] == ["part 1 of 3.", "part 2 of 3.", "part 3 of 3."]
    drawn = 0
    for picture in pictures:
        lines = picture.draw().axes[0].lines
        assert len({line.get_label() for line in lines}) == len(lines) <= 10
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines)
        drawn += len(lines)
    assert drawn == len(groups)
