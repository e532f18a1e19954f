"""Push a finished export to the Hub, each folder to its branch, fetch it again and compare."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_export import FORM_FOLDERS, branch_of
from bgetune.errors import UserError
from bgetune.export.card_named import form_named_for, named_for
from bgetune.export.push_failures import PushFailed
from bgetune.export.push_hub import Commit, Hub
from bgetune.export.push_secret import branch_name, hub_token, redacted, repository_name
from bgetune.files import (
    link_or_copy,
    read_json,
    scratch_folder,
    sha256_digests,
    sha256_file,
    tree_digests,
    write_json,
    write_text,
)
from bgetune.run import Run

log = logging.getLogger("bgetune")

_CARD = "README.md"


@dataclass(frozen=True)
class Destination:
    """Where the export goes."""

    repository: str
    private: bool = False
    revision: str = "main"
    pull: bool = False

    def branch(self, folder: str) -> str:
        """Of the main folder, or of one beside it.

        >>> Destination("o/n").branch("export-sparse"), Destination("o/n", revision="v1").branch("export-sparse")
        ('sparse', 'v1-sparse')
        """
        if folder not in FORM_FOLDERS.values():
            return self.revision
        name = branch_of(folder)
        return name if self.revision == "main" else f"{self.revision}-{name}"

    @property
    def main_only(self) -> bool:
        return self.pull or self.revision.startswith("refs/pr/")


@dataclass(frozen=True)
class Folder:
    """One finished folder and the branch it goes to."""

    path: Path
    branch: str
    digests: dict[str, str]
    """Name of each file -> SHA-256, sorted."""


def destination(
    config: JobConfig, repository: str | None, private: bool = False, revision: str | None = None, pull: bool = False
) -> Destination | None:
    """What the command's own options say, else those of `hub`; None where nothing is to be pushed.

    Raises:
        UserError: no name of a repository or a branch, or options of a push without one.
    """
    name = config.hub.repo if repository is None else repository
    if name is None:
        for option, given in (("--private", private), ("--revision", revision), ("--pr", pull)):
            if given:
                raise UserError(f"{option}: nothing is pushed; name a repository with --push ORG/NAME or hub.repo")
        return None
    branch = revision or config.hub.revision or "main"
    if pull and branch != "main":
        raise UserError(f"--pr: a pull request goes to the branch main, not to {branch!r}; leave one of both out")
    return Destination(
        repository_name(name, "hub.repo" if repository is None else "--push"),
        private or config.hub.private,
        branch_name(branch, "--revision" if revision else "hub.revision"),
        pull,
    )


def folders(run: Run, to: Destination) -> list[Folder]:
    """The folders of a finished export, those beside the main one first: its card speaks of their branches.

    Raises:
        UserError: the export is not finished, or was changed since every reader was checked.
    """
    manifest = run.manifest("export")
    sealed = read_json(manifest)["outputs"] if manifest.is_file() else {}
    found = []
    for path in (*(run.root / name for name in FORM_FOLDERS.values()), run.export):
        beside = path != run.export
        if beside and path.name not in sealed and not path.is_dir():
            continue
        digests = tree_digests(path)
        if not path.is_dir() or sealed.get(path.name) != sha256_digests(digests):
            raise UserError(
                f"{path}: it is not the export that was checked in every reader; make it again with "
                f"`bgetune export {run.root} --force`"
            )
        if beside and to.main_only:
            log.info("push: %s stays here: a pull request has the main folder alone", path)
            continue
        found.append(Folder(path, to.branch(path.name), digests))
    return found


def push(config: JobConfig, run: Run, to: Destination) -> None:
    """Bring every branch to its folder, fetch each commit again, compare files and vectors; say where it is.

    Raises:
        UserError: the token, the name, the permission, or an export that is not finished.
        PushFailed: a server stays broken, or what comes back differs.
    """
    hub = Hub(to.repository, hub_token("--push"))
    found = folders(run, to)
    hub.make(to.private)
    message = f"{config.data.name}: export of bgetune"
    with scratch_folder(run.root / ".push-named") as scratch:  # on the disk where the export had room
        named = [_named(each, scratch / each.path.name, to) for each in found]
        commits = [(each, hub.commit(each.branch, each.path, each.digests, message, to.pull)) for each in named]
        checked = _checked_before(run)
        for folder, commit in commits:
            record: dict[str, object] = {"repository": to.repository, "commit": commit.oid, "files": folder.digests}
            if checked.get(folder.branch) == record:
                log.info(
                    "push: nothing to do on branch %s: %s was fetched and compared before", folder.branch, commit.url
                )
                continue
            _compare(config, run, hub, folder, commit)
            checked[folder.branch] = record
            write_json(_record(run), checked)


def _named(folder: Folder, place: Path, to: Destination) -> Folder:
    """The folder as it goes to the Hub: the same files (hard links), and a card that names the repository."""
    digests = {}
    for name, digest in folder.digests.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if name == _CARD:
            write_text(place / name, _named_card(folder.path, folder.branch, to))
            digests[name] = sha256_file(place / name)
        else:
            link_or_copy(folder.path / name, place / name)
            digests[name] = digest
    return Folder(place, folder.branch, digests)


def _named_card(folder: Path, branch: str, to: Destination) -> str:
    card = (folder / _CARD).read_text(encoding="utf-8")
    if folder.name in FORM_FOLDERS.values():
        return form_named_for(card, to.repository, branch)
    return named_for(card, to.repository, {name: to.branch(name) for name in FORM_FOLDERS.values()}, to.revision)


def _record(run: Run) -> Path:
    """Which commit of which branch was fetched again and found to be ours."""
    return run.manifest("push")


def _checked_before(run: Run) -> dict[str, dict[str, object]]:
    return read_json(_record(run)) if _record(run).is_file() else {}


def _compare(config: JobConfig, run: Run, hub: Hub, folder: Folder, commit: Commit) -> None:
    from bgetune.export.push_check import compared  # it takes seconds to import

    with scratch_folder(run.root / ".push-fetched") as scratch:
        wrong = hub.fetch(commit.oid, folder.digests, scratch)
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise PushFailed(f"{commit.url}: what the Hub gives back is not what was sent: {shown}")
        vectors = compared(folder.path, scratch, config) if folder.path.name == run.export.name else ""
    log.info(
        "pushed: %s (%s): %s%d files fetched again, every SHA-256 is ours%s",
        commit.url,
        "pull request" if "/discussions/" in commit.url else f"branch {folder.branch}",
        "" if commit.new else "nothing to send, ",
        len(folder.digests),
        vectors,
    )


def dry_run(run: Run, to: Destination) -> None:
    """Print what would be pushed, and the card; asks no server."""
    base = redacted(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    print(f"{base}/{to.repository}{', private' if to.private else ''}: --dry-run, nothing is sent")
    total = count = 0
    for folder in folders(run, to):
        print(f"\n{'pull request to' if to.pull else 'branch'} {folder.branch}, from {folder.path}")
        for name in folder.digests:
            size = (folder.path / name).stat().st_size
            total, count = total + size, count + 1
            print(f"{_size(size):>12}  {name}")
    print(f"\n{count} files, {_size(total)}\n\n{run.export / _CARD}:\n")
    print(_named_card(run.export, to.revision, to), end="")


def _size(count: int) -> str:
    """
    >>> _size(900), _size(1_234_567)
    ('900 B', '1.2 MB')
    """
    if count < 1000:
        return f"{count} B"
    kilos = min(3, (len(str(count)) - 1) // 3)
    return f"{count / 1000**kilos:.1f} {' kMG'[kilos]}B"
