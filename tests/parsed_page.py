"""report.html as a browser's parser would see it, by the standard library: tags with their attributes, and the texts."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """elements: (tag, attributes); tables: the rows of texts of each; text: everything that is read, with spaces between."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.tables, self.policy = [], [], ""
        self._open, self._texts = [], []
        self.feed(source)
        self.close()
        assert self._open == []  # every element is closed

    @property
    def text(self):
        return " ".join(self._texts)

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self._texts.append(data)
        if "th" in self._open or "td" in self._open:
            self.tables[-1][-1][-1] += data
