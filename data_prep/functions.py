"""The documented functions of Python source files, read without importing or running anything."""

from __future__ import annotations

import ast
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LEAST_WORDS = 5
_LEAST_LINES = 4

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One documented function: `email/utils.py`, `formatdate`, its docstring's first paragraph, its code."""

    file: str
    name: str
    summary: str
    code: str


def functions_in(path: Path, name: str) -> Iterator[Function]:
    """The documented functions and methods of one file, in the order of the file.

    Left out: summaries of fewer than five words and functions of fewer than four lines ("Return the name." is no
    query, `return self._name` no answer), functions inside functions (their docstring is in the parent's code), and
    files this Python cannot parse (templates, code for other versions).
    """
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = file.read()
            tree = ast.parse(text)
    except (SyntaxError, ValueError):  # UnicodeDecodeError is a ValueError
        return
    # not splitlines(): it also splits at form feeds, which the parser does not count as lines
    lines = text.split("\n")
    for qualified, node in _walk(tree, ""):
        summary = _first_paragraph(ast.get_docstring(node) or "")
        if len(summary.split()) < _LEAST_WORDS or len(node.body) < 2:
            continue
        code = code_without_docstring(node, lines)
        if code.count("\n") + 1 >= _LEAST_LINES:
            yield Function(name, qualified, summary, code)


def _walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionNode]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{prefix}{child.name}.")
        else:  # an `if` or `try` around definitions
            yield from _walk(child, prefix)


def _first_paragraph(docstring: str) -> str:
    """The docstring up to its first blank line, white space folded.

    >>> _first_paragraph("Return the\\n  sum.\\n \\nMore of it.")
    'Return the sum.'
    """
    kept: list[str] = []
    for line in docstring.strip().split("\n"):
        if not line.strip():
            break
        kept.append(line)
    return " ".join(" ".join(kept).split())


def code_without_docstring(node: FunctionNode, lines: list[str]) -> str:
    """The source lines of a function, decorators and comments included, without its docstring, moved to the left."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    docstring = node.body[0]
    assert docstring.end_lineno is not None
    assert docstring.end_col_offset is not None
    assert node.end_lineno is not None
    # column offsets count bytes
    before = lines[docstring.lineno - 1].encode()[: docstring.col_offset].decode()
    after = lines[docstring.end_lineno - 1].encode()[docstring.end_col_offset :].decode()
    joined = before + after.strip().removeprefix(";").strip()
    kept = lines[first - 1 : docstring.lineno - 1]
    if joined.strip():
        kept.append(joined)
    rest = lines[docstring.end_lineno : node.end_lineno]
    while rest and not rest[0].strip():  # the blank line that set the docstring off
        rest.pop(0)
    # not textwrap.dedent: one string with text at the margin would keep the whole function indented
    indent = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
    return "\n".join(line.removeprefix(indent).rstrip() for line in [*kept, *rest]).strip()
