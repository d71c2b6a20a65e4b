"""report.html: the sections as one page by a template, with the pictures inside it; it loads nothing from anywhere.

All texts are escaped by the template, and the page's policy lets nothing run but its own script and nothing be loaded.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.files.text import printable
from utils.report.document import Picture, Section
from utils.report.formatting import Field
from utils.report.gallery import drawing

TEMPLATE = "page.html.jinja"
LONGEST_LINE = 18  # characters of a table's column that may have several lines
NUMBER = re.compile(r"[+-]?\d")  # a field that begins so holds a number
SVG = "{http://www.w3.org/2000/svg}"
REFERENCE = re.compile(r"(?<=url\(#)|(?<=^#)")  # where the name of an element begins in a value that refers to it
COLOUR = re.compile("#[0-9a-f]{6}")
DECIMALS = re.compile(r"\d+\.\d{3,}")
THEMED = {"#000000": "currentColor", "#ffffff": "var(--paper)", "#cccccc": "var(--line)"}  # matplotlib's black, white and legend


def save_pictures(sections: Sequence[Section], folder: Path) -> None:
    """Draws all pictures into the folder, as PNG and SVG."""
    for picture in _pictures(sections):
        drawing().save(picture.draw(), folder / picture.name)


def page(sections: Sequence[Section], folder: Path) -> str:
    """The page, with the pictures that `save_pictures` has put into the folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = _sha256
    drawings = {p.name: inline_svg((folder / f"{p.name}.svg").read_text(encoding="utf-8"), p) for p in _pictures(sections)}
    anchors = {anchor for section in sections for anchor in section.anchors()}
    helpers = {"shown_in": _shown_in(sections), "is_number": NUMBER.match, "width": _width, "zip": zip}
    return environment.get_template(TEMPLATE).render(sections=sections, drawings=drawings, anchors=anchors, **helpers)


def _pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    return (picture for section in sections for picture in section.pictures)


def _shown_in(sections: Sequence[Section]) -> dict[str, list[Section]]:
    """Anchor -> the sections whose tables link to it."""
    found: dict[str, list[Section]] = {}
    for section in sections:
        fields = section.table.fields().values() if section.table else ()
        for anchor in dict.fromkeys(field.target for column in fields for field in column if field.target):
            found.setdefault(anchor, []).append(section)
    return found


def _width(fields: Sequence[Field]) -> int:
    """The characters that a column has room for at least; longer texts have several lines, but numbers and verdicts one."""
    texts = [field.text for field in fields if not field.verdict and not NUMBER.match(field.text)]
    return min(LONGEST_LINE, max(map(len, texts), default=0))


def _printable(value: Any) -> Any:
    """What the template prints, with escapes for control characters; Markup is the template's own, and the drawings."""
    return printable(value) if type(value) is str else value


def _sha256(text: str) -> str:
    """A text's digest as a Content-Security-Policy writes it."""
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def inline_svg(text: str, picture: Picture) -> Markup:
    """The <svg> element of an SVG file of matplotlib's, to stand in a page beside others.

    Its ids begin with the picture's anchor; ink and paper are those of the page; what holds for a whole document (metadata,
    style sheet, namespaces) is left out, and points are rounded to a hundredth.
    """
    svg = ElementTree.fromstring(text)
    for parent in svg.iter():
        for child in list(parent):
            if not child.tag.startswith(SVG) or child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)
    for element in svg.iter():
        element.tag = element.tag.removeprefix(SVG)
        element.attrib = {name.rpartition("}")[2]: _inlined(name, value, picture) for name, value in element.attrib.items()}
    size = f"max-width: {svg.attrib['width']}"  # a drawing is not enlarged, so that all have letters of one size
    svg.attrib |= {"role": "img", "aria-label": printable(picture.caption), "style": size}
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _inlined(name: str, value: str, picture: Picture) -> str:
    if name == "id":
        return f"{picture.anchor}-{value}"
    if name == "d":
        return DECIMALS.sub(lambda found: f"{float(found[0]):.2f}", " ".join(value.split()))
    if name == "style":
        value = COLOUR.sub(lambda found: THEMED.get(found[0], found[0]), value)
    return REFERENCE.sub(f"{picture.anchor}-", value)
