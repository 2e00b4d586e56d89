"""A report as its readers get it: the elements of the page, to be asked for one by one."""

from html.parser import HTMLParser

from fedinverse.run import Run

VOID = {"meta", "link", "img", "input", "br", "path", "line", "rect", "circle"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, its text, tags around it). What is not well nested is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str], tuple[str, ...]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(self.elements[place][0] for place in self._open)
        self.elements.append((tag, dict(attrs), [], around))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(self.elements[place][0] for place in self._open)
        self.elements.append((tag, dict(attrs), [], around))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.elements[place][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str, tuple[str, ...]]]:
        """Return (attributes, text, tags around) of every ``tag``."""
        return [
            (attributes, "".join(text).strip(), around)
            for name, attributes, text, around in self.elements
            if name == tag
        ]


def page_of(run: Run) -> Page:
    return Page((run.files.report).read_text())
