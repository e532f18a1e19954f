"""Versions of a collection behind one name: `docs` is an alias of `docs-1f0c6a2b9d3e`, named by what it holds.

Each version carries a note in its metadata, which servers keep from 1.16 on: whose it is, whether it is whole, and
which versions the alias pointed to before. What bears no such note is another program's and never touched.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgetune.config import Similarity
from bgetune.encoded import Encoded
from bgetune.errors import UserError
from bgetune.index.qdrant_write import Storage, create_collection

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = logging.getLogger("bgetune")

_MADE_BY, _WRITING, _COMPLETE = "bgetune", "writing", "complete"
_DIGITS = 12  # of the hash, in a version's name


@dataclass(frozen=True)
class Note:
    """What a version says of itself."""

    alias: str
    complete: bool
    """Whether it was checked and switched to; else it is being written, or its writer was stopped."""
    replaced: tuple[str, ...]
    """What the alias pointed to before it, the last one first."""


def version_name(alias: str, digest: str) -> str:
    """
    >>> version_name("docs", "1f0c6a2b9d3e5566")
    'docs-1f0c6a2b9d3e'
    """
    return f"{alias}-{digest[:_DIGITS]}"


def refuse_bad_name(alias: str, option: str) -> None:
    """Raises UserError for a name that Qdrant would not take."""
    if not re.fullmatch(r'[^<>:"/\\|?*\x00-\x1f]{1,200}', alias) or alias in (".", ".."):
        rule = 'use 1 to 200 characters, none of < > : " / \\ | ? *'
        raise UserError(f"{option}: {alias!r} cannot be a collection's name in Qdrant; {rule}")


def aliases(client: QdrantClient) -> dict[str, str]:
    """Alias -> the collection it stands for."""
    return {each.alias_name: each.collection_name for each in client.get_aliases().aliases}


def collections(client: QdrantClient) -> list[str]:
    return sorted(each.name for each in client.get_collections().collections)


def refuse_collection(client: QdrantClient, alias: str, option: str) -> None:
    """Raises UserError where a collection itself has the name that is to be an alias."""
    if alias in collections(client):
        raise UserError(
            f"{option}: {alias!r} is a collection there, and an alias of that name is needed, which can be switched; "
            "choose another name, or remove the collection"
        )


def note_of(client: QdrantClient, name: str) -> Note | None:
    """What a version's note says; None for what bgetune did not make."""
    noted: Any = getattr(client.get_collection(name).config, "metadata", None) or {}
    if noted.get("made_by") != _MADE_BY:
        return None
    return Note(noted["alias"], noted["state"] == _COMPLETE, tuple(noted["replaced"]))


def open_version(
    client: QdrantClient, alias: str, name: str, encoded: Encoded, similarity: Similarity, storage: Storage, option: str
) -> None:
    """Create a version, or go on with one that is there; but for the live one, it counts as incomplete from here on.

    Raises:
        UserError: a collection of its name was made by another program, or the server keeps no notes.
    """
    there = name in collections(client)
    if not there:
        noted = {"made_by": _MADE_BY, "alias": alias, "state": _WRITING, "replaced": []}
        try:
            create_collection(client, name, encoded, similarity, storage, noted)
        except Exception:  # another program was faster, or an answer was lost on its way
            if name not in collections(client):
                raise
    note = note_of(client, name)
    if note is None and there:
        what = "was not made by bgetune, which would write into it; remove it, or choose another name"
        raise UserError(f"{option}: the collection {name!r} {what}")
    if note is None:
        client.delete_collection(name)
        raise UserError("--qdrant: the server keeps no notes on collections; upgrade it to Qdrant 1.16 or newer")
    if note.complete and aliases(client).get(alias) != name:
        client.update_collection(name, metadata={"state": _WRITING})


def switch(client: QdrantClient, alias: str, name: str) -> str | None:
    """Let the alias stand for a version, in one step: no search fails or finds nothing meanwhile.

    Returns:
        What it stood for until now; None: nothing.
    """
    from qdrant_client import models

    before = aliases(client).get(alias)
    if before == name:
        return name
    note = None if before is None else note_of(client, before)
    replaced = [] if before is None else [before, *(note.replaced if note else ())]
    noted = {"state": _COMPLETE, "replaced": [each for each in dict.fromkeys(replaced) if each != name]}
    client.update_collection(name, metadata=noted)
    create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
    delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    client.update_collection_aliases([create] if before is None else [delete, create])
    return before


def remove_old(client: QdrantClient, alias: str, keep: int) -> list[str]:
    """Remove all but the `keep` last versions that the alias stood for before; their names.

    Only what bears our note for this alias, was complete, and has no other alias.
    """
    named = aliases(client)
    current = note_of(client, named[alias])
    there = set(collections(client))
    removed = []
    for name in (current.replaced if current else ())[keep:]:
        if name not in there or name in named.values():
            continue
        note = note_of(client, name)
        if note is not None and note.alias == alias and note.complete:
            client.delete_collection(name)
            removed.append(name)
    return removed


def others(client: QdrantClient, alias: str) -> list[str]:
    """Versions of ours that no alias stands for and none is to go back to.

    They are being written, were given up, or were stepped back from.
    """
    named = aliases(client)
    current = note_of(client, named[alias])
    known = {*named.values(), *(current.replaced if current else ())}
    like = re.compile(rf"{re.escape(alias)}-[0-9a-f]{{{_DIGITS}}}")
    notes = {name: note_of(client, name) for name in collections(client) if like.fullmatch(name) and name not in known}
    return [name for name, note in notes.items() if note and note.alias == alias]
