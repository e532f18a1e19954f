"""From what a language model answered to usable queries."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bgetune.data import normalised

MOST_WORDS = 60
MOST_CHARACTERS = 600
"""For scripts without spaces, where a whole page is one word."""
_LEAST_COPY = 20
"""Characters from which words of the passage are a copy; fewer may well be a topic's name."""

_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_JSON_START = re.compile(r"(?:^|:)[^\S\n]*([\[{])", re.MULTILINE)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ITEM = re.compile(r"^[^\S\n]*(?:[*_]{2})?(?:\(?\d{1,3}[.):]|[-*•–])(?:[*_]{2})?[^\S\n]+(\S.*)$", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"^\(?\d{1,3}[.):]\s+")
_LABEL = re.compile(r"^[*_]*(?:query|question|q)\s*\d*\s*[*_]*\s*[:.)][*_]*\s+", re.IGNORECASE)
_QUOTES = ('""', "''", "“”", "‘’", "«»", "„“", "「」", "``", "**", "__")


def queries_in(answer: str, passages: Sequence[str]) -> list[str]:
    """The usable queries of an answer, in its order; none where it holds no list or nothing of use.

    A list may be JSON (bare, fenced, inside an object, or cut short), Python's, or numbered or bulleted lines.
    Left out are queries that are empty, above 60 words, said before, or copied word for word out of one of `passages`
    (the same passage with and without its title).

    >>> queries_in('<think>Hm: ["no"]</think>```json\\n["What is tea?", "what is  tea?"]\\n```', ["Tea is hot."])
    ['What is tea?']
    >>> queries_in('Sure:\\n1. "how hot is tea"\\n2) **who drinks tea**', ["Tea is hot."])
    ['how hot is tea', 'who drinks tea']
    >>> queries_in("I cannot help with that.", ["Tea is hot."])
    []
    """
    within = [f" {_letters(passage)} " for passage in passages]
    kept: dict[str, str] = {}
    for raw in _listed(_without_thoughts(answer)):
        query = cleaned(raw)
        letters = _letters(query)
        too_long = len(query.split()) > MOST_WORDS or len(query) > MOST_CHARACTERS
        copied = len(letters) >= _LEAST_COPY and any(f" {letters} " in text for text in within)
        if letters and not too_long and not copied:
            kept.setdefault(normalised(query), query)
    return list(kept.values())


def cleaned(text: str) -> str:
    """A query without numbering, label, quotes, line breaks and half characters.

    >>> cleaned(' 2. "Query: what is\\n tea?" '), cleaned('"a" or "b"'), cleaned("3.5 mm jack")
    ('what is tea?', '"a" or "b"', '3.5 mm jack')
    """
    text = " ".join(_CONTROL.sub(" ", text.encode("utf-8", "ignore").decode()).split())
    before = None
    while text != before:
        before = text
        text = _LABEL.sub("", _NUMBER.sub("", text)).strip()
        if text.count("**") == 1:  # the number before it was bold too
            text = text.removesuffix("**").strip()
        for quotes in _QUOTES:
            opened, closed = quotes[0], quotes[1]
            inner = text[1:-1]
            if len(text) > 1 and text[0] == opened and text[-1] == closed and not set(inner) & set(quotes):
                text = inner.strip()
            elif opened == closed and text.startswith(quotes) and text.endswith(quotes) and opened not in text[2:-2]:
                text = text[2:-2].strip()
    return text


def _letters(text: str) -> str:
    """Only its words, lower-cased: what a copy has in common with its original."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _without_thoughts(answer: str) -> str:
    """Some servers cut the opening tag away; a thought that was never closed has no answer after it."""
    closed = re.split(r"</think(?:ing)?>", answer, flags=re.IGNORECASE)[-1]
    return re.split(r"<think(?:ing)?>", closed, flags=re.IGNORECASE)[0].strip()


def _listed(text: str) -> list[str]:
    """The first list in a text; what stands in a fence is looked at first."""
    places = [*_FENCED.findall(text), text]
    for find in (_in_json, _in_torn_list, _ITEM.findall):
        for place in places:
            if found := find(place):
                return found
    return []


def _in_json(text: str) -> list[str]:
    """The strings of the first JSON list or object that begins a line or follows a colon."""
    decoder = json.JSONDecoder()
    for start in _JSON_START.finditer(text):
        try:
            value, _ = decoder.raw_decode(text, start.start(1))
        except (ValueError, RecursionError):
            continue
        if found := list(_strings(value)):
            return found
    return []


def _strings(value: Any) -> Iterable[str]:
    """A list's strings; of an object its lists, else its queries, else every string."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        named = [item for key, item in value.items() if re.search("quer|question", key, re.IGNORECASE)]
        for item in lists or named or [item for item in value.values() if isinstance(item, str)]:
            yield from _strings(item)


def _in_torn_list(text: str) -> list[str]:
    """A list that JSON does not know: Python's, one with a comma too many, one that the token limit cut short."""
    start = _JSON_START.search(text)
    rest = text[start.start(1) :] if start else ""
    rest = rest[rest.find("[") :] if "[" in rest else ""
    if not rest or rest[1:].lstrip().startswith("{"):  # torn objects: what is a query in them, nobody can say
        return []
    try:
        value = ast.literal_eval(rest[: rest.rindex("]") + 1])
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [json.loads(string, strict=False) for string in _STRING.findall(rest) if _is_json(string)]


def _is_json(string: str) -> bool:
    try:
        json.loads(string, strict=False)
    except ValueError:
        return False
    return True
