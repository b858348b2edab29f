"""Pages of HTML: whole, safe, self-contained."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "wbr"}


class Checker(HTMLParser):
    """Every tag is closed in order; nothing is fetched and nothing is executed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in {"src", "href", "xlink:href"}, f"<{tag} {name}> fetches something"
            assert not name.startswith("on"), f"<{tag} {name}> executes something"
            assert "url(" not in (value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(checker.tags)
    assert "@import" not in page
    assert "http" not in page.replace("http-equiv", "")
    return checker
