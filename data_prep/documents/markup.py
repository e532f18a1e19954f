"""HTML and Markdown to sections: headings, paragraphs, lists, tables, code. Markdown is rendered to HTML first."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .parts import Line, Section, sections_of

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from bs4.element import PageElement, Tag

_SKIPPED_TAGS = "script style noscript template nav footer head svg iframe button select textarea title"
_INLINE_TAGS = """a abbr acronym b bdi bdo big cite code data del dfn em font i img input ins kbd label mark q rp rt
ruby s samp small span strike strong sub sup time tt u var wbr"""
_BLOCK_TAGS = """address article aside audio blockquote body br caption center col colgroup dd details div dl dt
fieldset figcaption figure form header hr html legend li link main meta ol p picture pre section source summary table
tbody td tfoot th thead tr ul video"""
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_SKIPPED = frozenset(_SKIPPED_TAGS.split())
_INLINE = frozenset(_INLINE_TAGS.split())
_KNOWN_TAGS = _INLINE | _SKIPPED | _HEADINGS | frozenset(_BLOCK_TAGS.split())
_TAG = re.compile(r"<(?=/?([A-Za-z][\w-]*)[^>]*>)")
_PERMALINK = re.compile(r"^\s*[¶§#🔗]\s*|\s*[¶§#🔗]\s*$")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*\n", re.DOTALL | re.MULTILINE)
_LINE = "data-line"


@dataclass(frozen=True)
class Page:
    """Title as stated, empty where there is none, and the sections."""

    title: str
    sections: tuple[Section, ...]


def read_html(text: str, faq: bool) -> Page:
    """A page without its scripts, styles, controls, navigation and hidden parts; of one with <main>, that part."""
    soup = _parsed(text)
    stated = soup.title.get_text(" ", strip=True) if soup.title else ""
    return _page(soup, _Walker(), " ".join(stated.split()), faq)


def read_markdown(text: str, faq: bool) -> Page:
    """CommonMark with tables; YAML front matter gives no text, but a title where no single top heading does."""
    from markdown_it import MarkdownIt

    matter = _FRONT_MATTER.match(text)
    above = matter[0].count("\n") if matter else 0
    parser = MarkdownIt("commonmark", {"breaks": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(text[matter.end() :] if matter else text)
    for token in tokens:
        line = above + (token.map[0] if token.map else 0) + (2 if token.type == "fence" else 1)
        if token.type == "html_block":
            token.content = f'<a {_LINE}="{line}"></a>' + _escape_unknown(token.content)
        elif token.map and token.nesting >= 0:
            token.attrSet(_LINE, str(line))
        for child in token.children or ():
            if child.type == "html_inline":
                child.content = _escape_unknown(child.content)
    html = parser.renderer.render(tokens, parser.options, {})
    stated = _stated_title(matter[1]) if matter else ""
    return _page(_parsed(html), _Walker(numbered=True), stated, faq)


def _parsed(html: str) -> BeautifulSoup:
    """The tree of a page. It only grows, and a garbage collector that goes through it takes a third of the time."""
    from bs4 import BeautifulSoup

    collects = gc.isenabled()
    gc.disable()
    try:
        return BeautifulSoup(html, "html.parser")  # lxml is no faster here, and bs4 gets no line numbers from it
    finally:
        if collects:
            gc.enable()


def _escape_unknown(html: str) -> str:
    """What only looks like HTML stays in the text.

    >>> _escape_unknown("a Vec<T> is <b>one</b>")
    'a Vec&lt;T> is <b>one</b>'
    """
    return _TAG.sub(lambda match: "<" if match[1].lower() in _KNOWN_TAGS else "&lt;", html)


def _stated_title(front_matter: str) -> str:
    import yaml

    try:
        stated = yaml.safe_load(front_matter)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
        return ""
    title = stated.get("title") if isinstance(stated, dict) else None
    return " ".join(title.split()) if isinstance(title, str) else ""


def _page(soup: BeautifulSoup, walker: _Walker, stated: str, faq: bool) -> Page:
    """Sections with their heading paths; a single <h1> is the title, and then in no path."""
    main = soup.find("main")
    walker.walk(main if main is not None and main.get_text(strip=True) else soup)
    top = [text for level, text in walker.headings if level == 1]
    title = top[0] if len(top) == 1 else stated
    sections: list[Section] = []
    for path, lines in walker.parts:
        names = tuple(text for level, text in path if len(top) != 1 or level > 1)
        sections.extend(sections_of(names, lines, faq))
    return Page(title, tuple(sections))


Path = tuple[tuple[int, str], ...]


@dataclass
class _Walker:
    """Goes through a page in its own order; HTML may leave tags open, so what closes a line is what opens next."""

    numbered: bool = False
    """Lines are in the attribute data-line, not where the tags are."""
    parts: list[tuple[Path, list[Line]]] = field(default_factory=lambda: [((), [])])
    headings: list[tuple[int, str]] = field(default_factory=list)
    _words: list[str] = field(default_factory=list)
    _all_bold: bool = True
    _continues: bool = False
    _bold: int = 0
    _pre: bool = False
    _in_row: bool = False
    _in_heading: bool = False
    _prefix: str = ""
    _lists: list[int | None] = field(default_factory=list)
    """For each list around: the number of its last item, None where its items have bullets."""
    _line: int = 1
    _start: int = 1

    def walk(self, root: Tag) -> None:
        # no recursion: thousands of <p> that are never closed lie inside one another
        from bs4.element import NavigableString, Tag

        stack: list[tuple[Tag, Iterator[PageElement]]] = [(root, iter(root.children))]
        while stack:
            tag, children = stack[-1]
            node = next(children, None)
            if node is None:
                stack.pop()
                self._close(tag)
            elif isinstance(node, Tag):
                if node.name not in _SKIPPED and not node.has_attr("hidden") and node.get("aria-hidden") != "true":
                    self._open(node)
                    stack.append((node, iter(node.children)))
            elif type(node) is NavigableString:  # its subclasses are comments, declarations, scripts
                self._text(str(node))
        self._flush()

    def _text(self, text: str) -> None:
        if text.strip() or self._pre:
            if not self._words:
                self._start = self._line
            self._all_bold = self._all_bold and self._bold > 0
        if self._words or text.strip() or self._pre:
            self._words.append(text)

    def _open(self, tag: Tag) -> None:
        name = tag.name
        if name == "br":
            self._break()
        elif name in ("td", "th") and self._in_row:
            if self._words:
                self._words.append(" | ")
        elif self._on_its_own(name):
            self._flush()
        if not self.numbered:
            self._line = tag.sourceline or self._line
        elif tag.has_attr(_LINE):
            self._line = int(str(tag[_LINE]))
        if name in ("b", "strong"):
            self._bold += 1
        elif name in ("summary", "dt", "dd"):
            self._bold = int(name != "dd")
        elif name == "pre":
            self._pre = True
        elif name in ("ul", "ol"):
            self._lists.append(0 if name == "ol" else None)
        elif name == "li":
            self._prefix = self._bullet()
        elif name == "tr":
            self._in_row = True
        elif name in _HEADINGS:
            self._in_heading = True

    def _close(self, tag: Tag) -> None:
        name = tag.name
        if name in _HEADINGS:
            self._heading(int(name[1]))
        elif name == "pre":
            self._code()
        elif name == "tr":
            self._in_row = False
            self._flush()
        elif name in ("details", "dl"):
            self._flush()
            self._lines.append(Line("", self._line, closes=True))
        elif name != "br" and self._on_its_own(name):
            self._flush()
        if name in ("b", "strong"):
            self._bold = max(0, self._bold - 1)
        elif name in ("summary", "dt"):
            self._bold = 0
        elif name in ("ul", "ol") and self._lists:
            self._lists.pop()

    def _on_its_own(self, name: str) -> bool:
        """Whether this tag begins or ends a line; a row of a table with larger things inside is only layout."""
        if self._in_row and (name in _HEADINGS or name in ("pre", "ul", "ol", "dl", "table")):
            self._in_row = False
        if name in _INLINE or self._in_row or self._pre:
            if name not in _INLINE and self._words and not self._pre:
                self._words.append(" ")
            return False
        return not (self._in_heading and name in ("div", "svg"))

    @property
    def _lines(self) -> list[Line]:
        return self.parts[-1][1]

    def _bullet(self) -> str:
        if not self._lists or (number := self._lists[-1]) is None:
            return "  " * (len(self._lists) - 1) + "- "
        self._lists[-1] = number + 1
        return "  " * (len(self._lists) - 1) + f"{number + 1}. "

    def _break(self) -> None:
        if self._pre:
            self._words.append("\n")
        elif self._in_row:
            self._words.append(" ")
        else:
            self._flush(continues=True)
            self._line += self.numbered  # Markdown's line breaks have no line of their own

    def _flush(self, continues: bool = False) -> None:
        """End a line; `continues`: the next one goes on with the same paragraph."""
        if text := " ".join("".join(self._words).split()):
            bold = self._all_bold
            self._lines.append(Line(self._prefix + text, self._start, bold=bold, continues=self._continues))
            self._prefix = ""
        self._continues = continues and bool(text or self._continues)
        self._words, self._all_bold = [], True

    def _code(self) -> None:
        rows = "".join(self._words).replace("\r\n", "\n").split("\n")
        self._words, self._all_bold, self._pre, self._continues = [], True, False, False
        numbered = [(self._start + i, row.rstrip()) for i, row in enumerate(rows)]
        while numbered and not numbered[0][1]:
            numbered.pop(0)
        while numbered and not numbered[-1][1]:
            numbered.pop()
        self._lines.extend(Line(row, n, code=True, continues=i > 0) for i, (n, row) in enumerate(numbered))

    def _heading(self, level: int) -> None:
        text = _PERMALINK.sub("", " ".join("".join(self._words).split()))
        self._words, self._all_bold, self._prefix, self._continues, self._in_heading = [], True, "", False, False
        if text:
            above = tuple(entry for entry in self.parts[-1][0] if entry[0] < level)
            self.headings.append((level, text))
            self.parts.append(((*above, (level, text)), []))
