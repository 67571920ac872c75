"""A page as its reader's browser sees it: tables, attributes, words."""

import html.parser
from pathlib import Path


class Tables(html.parser.HTMLParser):
    """Every table of a page as rows of (text of the cell, data-value); the attributes of all elements."""

    def __init__(self, page_file: Path):
        super().__init__()
        self.tables, self.attributes, self.cell, self.text = [], [], None, ""
        self.feed(page_file.read_text())

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ["", dict(attributes).get("data-value")]
        elif tag in ("small", "details") and self.cell:
            self.cell[0] += "|"

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(tuple(self.cell))
            self.cell = None

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.cell[0] += data.strip()

    def dicts(self, number: int) -> list[dict]:
        """The rows of a table by its headings."""
        heading, *rows = self.tables[number]
        return [dict(zip((text for text, _ in heading), row)) for row in rows]
