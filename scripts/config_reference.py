"""docs/configuration.md out of the code: every option of a job with its type, its default and what it does.

    python scripts/config_reference.py --output docs/configuration.md

`tests/test_docs.py` says when the file is behind the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from docstring_parser import parse_from_object

from bgetune.config import JobConfig
from bgetune.files import write_text

LONGEST_DEFAULT = 48

INTRODUCTION = """# Configuration

Every option of a job. Made from the code by `python scripts/config_reference.py --output docs/configuration.md`;
to change it, edit the docstrings in `bgetune/config*.py`.

An option is a key of the YAML file, nested at the dots, or a flag of any command that takes `--config`:
`--train.epochs 2`. A flag wins over the file. Lists and mappings in a flag are YAML in quotes:
`--merge.shares "[0.25, 0.5]"`. `configs/*.yaml` are whole jobs with a comment on each option.
"""


def type_words(annotation: Any) -> str:
    """A type in the words of YAML.

    >>> type_words(int | None), type_words(tuple[str, ...]), type_words(Literal["a", "b"])
    ('int or null', 'list of str', '`a`, `b`')
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(arg) for arg in args)
    if origin is tuple:
        return f"list of {type_words(args[0])}"
    if origin is dict and dataclasses.is_dataclass(args[1]):
        return "mapping of names to the options of `data.domain`"
    if origin is dict:
        return f"mapping of {type_words(args[0])} to {type_words(args[1])}"
    if dataclasses.is_dataclass(annotation):
        return "mapping"
    return str(annotation.__name__)


def default_words(value: Any) -> str:
    """A default as one writes it in YAML, unless it is long.

    >>> default_words(None), default_words(1e-05), default_words(("a",)), default_words("")
    ('`null`', '`1e-05`', '`[a]`', '`""`')
    """
    if value == "":
        return '`""`'
    if isinstance(value, float):
        return f"`{value:g}`"
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, sort_keys=False)
    text = text.removesuffix("\n...\n").strip()
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "long; `--print_config` shows it"


def option_rows(cls: type, value: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Option, type, default and what it does, for the fields of `cls` that are not sections of their own."""
    hints = typing.get_type_hints(cls)
    told = {param.arg_name: param.description or "" for param in parse_from_object(cls).params}
    for field in dataclasses.fields(cls):
        if not dataclasses.is_dataclass(hints[field.name]):
            default = default_words(getattr(value, field.name))
            yield prefix + field.name, type_words(hints[field.name]), default, " ".join(told[field.name].split())


def section(cls: type, value: Any, prefix: str) -> Iterator[str]:
    """The Markdown of a section and of the sections in it, depth first."""
    rows = list(option_rows(cls, value, prefix))
    if rows:
        yield f"## {prefix.rstrip('.') or 'The job'}"
        yield " ".join((cls.__doc__ or "").split())
        table = ["| option | type | default | what |", "|---|---|---|---|"]
        for option, kind, default, what in rows:
            cells = (cell.replace("|", "\\|") for cell in (f"`{option}`", kind, default, what))
            table.append(f"| {' | '.join(cells)} |")
        yield "\n".join(table)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            inner = typing.cast(type, hints[field.name])
            yield from section(inner, getattr(value, field.name), f"{prefix}{field.name}.")
        elif typing.get_origin(hints[field.name]) is tuple and (item := _item_of(hints[field.name])):
            yield from section(item, item(), f"{prefix}{field.name}[].")


def _item_of(annotation: Any) -> type | None:
    """The dataclass that a list holds."""
    for arg in typing.get_args(annotation):
        if dataclasses.is_dataclass(arg):
            return typing.cast(type, arg)
    return None


def reference() -> str:
    """The whole of docs/configuration.md."""
    return "\n\n".join([INTRODUCTION.rstrip(), *section(JobConfig, JobConfig(), "")]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the file; none: standard output")
    options = parser.parse_args()
    if options.output is None:
        sys.stdout.write(reference())
    else:
        write_text(options.output, reference())


if __name__ == "__main__":
    main()
