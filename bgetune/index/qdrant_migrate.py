"""Bring a corpus into a new version of a Qdrant collection, check it, and only then let the alias stand for it.

Killed anywhere and run again it goes on: the version's name is the hash of what it holds, a point's id that of its
passage, so that what is there is known to be right and only what is missing is written.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.index.qdrant import Unfinished
from bgetune.index.qdrant_check import Checked, check
from bgetune.index.qdrant_versions import (
    aliases,
    collections,
    note_of,
    open_version,
    others,
    refuse_collection,
    remove_old,
    switch,
    version_name,
)
from bgetune.index.qdrant_write import POINTS, Storage, missing_rows, payload_of, wait_until_indexed, write_points
from bgetune.search import EncodedSet

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = logging.getLogger("bgetune")

OPTION = "--collection"
"""That names the alias, for messages."""


@dataclass(frozen=True)
class Target:
    """Where a corpus goes, and what becomes of what was there."""

    alias: str
    """The name that applications ask; the collection behind it is a version."""
    storage: Storage = field(default_factory=Storage)
    batch: int = POINTS
    """Points a request, at most."""
    keep: int = 1
    """Versions that the alias stood for before, to go back to."""
    drop_others: bool = False
    """Remove, instead of naming them, versions that were given up half-way or stepped back from."""


@dataclass(frozen=True)
class Done:
    """What came of it."""

    name: str
    checked: Checked
    before: str | None
    """What the alias stood for; the same as `name` where only points were missing."""


def holds(client: QdrantClient, target: Target, digest: str, passages: int) -> bool:
    """Whether the alias stands for a whole version of just this content, so that nothing is to be done.

    Raises:
        UserError: a collection itself has the alias's name.
    """
    refuse_collection(client, target.alias, OPTION)
    name = version_name(target.alias, digest)
    if aliases(client).get(target.alias) != name or name not in collections(client):
        return False
    note = note_of(client, name)
    return note is not None and note.complete and client.count(name, exact=True).count == passages


def migrate(
    client: QdrantClient,
    target: Target,
    digest: str,
    corpus: Texts,
    set_name: str,
    both: EncodedSet,
    questions: Texts,
    config: JobConfig,
    local: bool,
) -> Done:
    """Write what is missing, wait for the index, check, switch.

    Args:
        digest: hash of all that decides what the collection holds.
        both: the passages and the questions to check with, encoded.
        local: `client` is qdrant-client's local mode.

    Raises:
        UserError: a collection in the way that bgetune did not make, or a server that is too old.
        Unfinished: what is there is not what was written, or the server's index was not built; the alias stands for
            what it stood for.
    """
    alias, name = target.alias, version_name(target.alias, digest)
    refuse_collection(client, alias, OPTION)
    open_version(client, alias, name, both.passages, both.similarity, target.storage, OPTION)
    missing = missing_rows(client, name, corpus.ids, f"{name}: looking")
    if len(missing) < len(corpus):
        log.info("%s: %d of %d points are there already", name, len(corpus) - len(missing), len(corpus))
    if len(missing):
        payload = payload_of(corpus, set=set_name)
        write_points(client, name, corpus, both.passages, missing, payload, f"{name}: writing", target.batch)
    if not wait_until_indexed(client, name):
        raise Unfinished(f"{name}: its index is not built; see to the server and run again, the alias was not switched")
    quantized = target.storage.quantization != "none"
    checked = check(client, name, corpus, both, questions, config, local, quantized)
    before = switch(client, alias, name)
    if before is not None and before != name and note_of(client, before) is None:
        log.info("%s stood for %r, which bgetune did not make; that stays as it is", alias, before)
    return Done(name, checked, before)


def tidy(client: QdrantClient, target: Target) -> list[str]:
    """Remove versions that are too old, and others where that was asked; their names."""
    removed = remove_old(client, target.alias, target.keep)
    left = others(client, target.alias)
    if left and not target.drop_others:
        log.info("left as they are, being written or given up: %s (--drop_others removes them)", ", ".join(left))
        return removed
    for name in left:
        client.delete_collection(name)
    return removed + left
