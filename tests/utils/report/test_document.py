"""The report as Markdown: texts of records stay text wherever they stand, and constant notes stay as they are written."""

import re

import pytest
from hostile import raw_characters
from run_folders import DIGITS, make_run, settings_of

from utils.report import against_ste, gallery, recorded, sweeps, tables, validation
from utils.report.document import Picture, Section, markdown

LEARNED = DIGITS._replace(backward="MultiFC")
ACTIVE = re.compile(r"(?<!\\)(?:\\\\)*[<\[`&]")  # what Markdown obeys, if no backslash stands before it
HOSTILE = ("<img src=x onerror=alert(1)>", "\x1b[31m\n\n## Forged", "[a](b)", "`x`")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_method_without_a_baseline_is_named_in_a_note_and_its_texts_are_not_obeyed(text, call_main, tmp_path):
    """In its net, its learning rate's schedule and its optimizer; control characters are refused in names."""
    changes = ({"lr_adjust": text}, *([] if "\n" in text else [{"model": text}, {"optimizer": text}]))
    for number, change in enumerate(changes):
        make_run(tmp_path / str(number), LEARNED, settings=settings_of(LEARNED, **change))
    outcome = call_main("report", tmp_path)
    assert outcome.code == 0
    (note,) = re.findall(r"^Without a comparable baseline.*$", outcome.out, flags=re.MULTILINE)
    assert note.count("none was run") == len(changes)
    assert not ACTIVE.search(note)
    assert raw_characters(outcome.out) == set()
    assert "\n## Forged" not in outcome.out


def test_no_text_begins_a_heading_a_list_a_quotation_or_a_picture_of_its_own():
    for text in ("# x", "- x", "+ x", "> x", "1. x", "2) x", "--- ", "=== "):
        made = markdown([Section("a", "Title", text, [text], pictures=[Picture("p", text, None)])], with_pictures=True)
        escaped = re.sub(r"^(\d*)(.)", r"\1\\\2", text.strip()) if text[0].isdigit() else f"\\{text.strip()}"
        assert made.splitlines() == ["## Title", "", escaped, "", f"- {escaped}", "", f"![{text}](p.png)", "", escaped]
    picture = Picture("p", "x](//evil.example/x.png) y", None)
    assert r"![x\](//evil.example/x.png) y](p.png)" in markdown([Section("a", "T", pictures=[picture])], with_pictures=True)


def test_constant_notes_are_as_they_are_written():
    modules = (against_ste, gallery, recorded, sweeps, tables, validation)
    notes = [value for module in modules for name, value in vars(module).items() if name.endswith("NOTE")]
    assert len(notes) > 7
    for note in notes:
        assert markdown([Section("a", "Title", note)]) == f"## Title\n\n{note}"
