"""One repository on the Hub: make it, bring a branch to the files of a folder in one commit, fetch a commit again."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bgetune import __version__
from bgetune.errors import UserError
from bgetune.export.push_failures import PushFailed, failure_of
from bgetune.export.push_secret import redacted, redacted_log
from bgetune.files import sha256_file
from bgetune.progress import progress

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

log = logging.getLogger("bgetune")
T = TypeVar("T")

_TRIES = 4
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 120.0
ANSWER_SECONDS = 120.0
"""Silence of a server that ends a request; the Hub's client by itself waits for ever."""
_BIG = 10_000_000
"""Bytes from which a file is sent by itself, so that it need not be sent again when the next one breaks."""
# What a reader would load in place of, or with, the files of the export; rows of data and results are not among it.
_LOADED = re.compile(
    r".*\.(safetensors|bin|pt|onnx|onnx_data|h5|msgpack|model)|(.*/)?(vocab|merges)\.txt|(\d+_\w+/)?[^/]*\.json",
    re.DOTALL,
)


@dataclass(frozen=True)
class Commit:
    """Where a branch's files are; `new`: this push has made it."""

    oid: str
    url: str
    new: bool


class Hub:
    """A repository, and the token for it. All methods try again where that can help, from a fresh look at the branch.

    Raises:
        UserError: the token, the name or the permission will not do.
        PushFailed: a server or the network stays broken; run again, it goes on from what is there.
    """

    def __init__(self, repository: str, token: str, background: bool = False) -> None:
        from huggingface_hub import HfApi

        # the client reads it when it is imported; here it counts when it is used
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        self.repository, self._token, self._background = repository, token, background
        self._api: HfApi = HfApi(endpoint=endpoint, token=token, library_name="bgetune", library_version=__version__)
        # a terminal shows the client's own bars, a log file lines of ours
        self._client_bars = sys.stderr.isatty() and not background
        _limit_waits()

    def make(self, private: bool) -> None:
        """Make the repository where it is absent; refuse a public one where a private one is asked for."""
        self._tried("repository", lambda: self._make(private))

    def _make(self, private: bool) -> None:
        # None, not False: an organisation may have private repositories by default
        self._api.create_repo(self.repository, private=True if private else None, exist_ok=True)
        if private and not self._api.repo_info(self.repository).private:
            raise UserError(
                f"--private: {self.repository} is there already and is public; make it private in its settings on the "
                "Hub, name another repository, or leave the option out"
            )

    def commit(self, branch: str, folder: Path, digests: Mapping[str, str], message: str, pull: bool = False) -> Commit:
        """Bring a branch to `folder`'s files, in one commit, so that no reader ever finds half of a model.

        What is there with the same content is not sent; nothing is committed where nothing differs. Files that a reader
        would load and that the folder lacks are removed; others, such as a LICENSE, stay.

        Args:
            branch: made from the repository's first commit where it is absent.
            digests: names of the files to send, and their SHA-256.
            pull: open a pull request to the branch `main` instead.
        """
        return self._tried(
            f"pull request to {branch}" if pull else f"branch {branch}",
            lambda: self._commit(branch, folder, digests, message, pull),
        )

    def _commit(self, branch: str, folder: Path, digests: Mapping[str, str], message: str, pull: bool) -> Commit:
        from huggingface_hub import CommitOperationDelete

        head = self._head(branch)
        there = self._tree(head)
        changed = [name for name, digest in digests.items() if not _same(folder / name, digest, there.get(name))]
        gone = sorted(name for name in there.keys() - digests.keys() if _LOADED.fullmatch(name))
        if not changed and not gone:
            return Commit(head, self._url(head), new=False)
        if pull and (made := self._pull_made(digests, folder, message)):
            return made
        for name in gone:
            log.info("push: %s is not among the files, removed from %s", name, branch)
        additions = self._send(changed, folder, branch, pull) if changed else []
        done = self._api.create_commit(
            self.repository,
            [*additions, *(CommitOperationDelete(path_in_repo=name) for name in gone)],
            commit_message=message,
            revision=branch,
            parent_commit=head,
            create_pr=pull,
        )
        return Commit(done.oid, self._pull_url(done.pr_num) if pull else self._url(done.oid), new=True)

    def _head(self, branch: str) -> str:
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            head = self._api.repo_info(self.repository, revision=branch).sha
        except RevisionNotFoundError:
            if branch.startswith("refs/"):
                raise UserError(f"--revision: {self.repository} has no {branch}; open one with --pr") from None
            first = self._api.list_repo_commits(self.repository)[-1].commit_id
            self._api.create_branch(self.repository, branch=branch, revision=first, exist_ok=True)
            head = self._api.repo_info(self.repository, revision=branch).sha
        assert head is not None, "the Hub tells a branch's commit"
        return head

    def _tree(self, revision: str) -> dict[str, tuple[str, str]]:
        """Name of each file there -> ("sha256" or "git", hash)."""
        from huggingface_hub.hf_api import RepoFile

        listed = self._api.list_repo_tree(self.repository, recursive=True, revision=revision)
        files = [each for each in listed if isinstance(each, RepoFile)]
        return {each.path: ("sha256", each.lfs.sha256) if each.lfs else ("git", each.blob_id) for each in files}

    def _pull_made(self, digests: Mapping[str, str], folder: Path, message: str) -> Commit | None:
        """A pull request with these files that is open: of an earlier push, or of a try that has not heard of it."""
        found = self._api.get_repo_discussions(
            self.repository, discussion_type="pull_request", discussion_status="open"
        )
        for each in found:
            if each.title != message or each.git_reference is None:
                continue
            head = self._head(each.git_reference)
            there = self._tree(head)
            if all(_same(folder / name, digest, there.get(name)) for name, digest in digests.items()):
                return Commit(head, self._pull_url(each.num), new=False)
        return None

    def _send(self, names: list[str], folder: Path, branch: str, pull: bool) -> list[CommitOperationAdd]:
        """Upload the content of big files: what is at the Hub's storage already is not sent again."""
        from huggingface_hub import CommitOperationAdd

        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
        sizes = {each.path_in_repo: (folder / each.path_in_repo).stat().st_size for each in additions}
        small = [each for each in additions if sizes[each.path_in_repo] < _BIG]
        big = [[each] for each in additions if sizes[each.path_in_repo] >= _BIG]
        none = nullcontext() if self._client_bars or self._background else None
        with none or progress(sum(sizes.values()), f"push to {branch}", "B") as bar:
            for part in [small, *big] if small else big:
                self._api.preupload_lfs_files(
                    self.repository, additions=part, revision=branch, create_pr=pull, free_memory=False
                )
                if bar is not None:
                    bar.update(sum(sizes[each.path_in_repo] for each in part))
        return additions

    def fetch(self, commit: str, digests: Mapping[str, str], folder: Path) -> list[str]:
        """Load the files of a commit into an empty folder; those whose SHA-256 is another, sorted."""
        self._tried(f"fetching commit {commit[:12]}", lambda: self._fetch(commit, digests, folder))
        here = {name: sha256_file(folder / name) if (folder / name).is_file() else "absent" for name in digests}
        return sorted(name for name, digest in digests.items() if here[name] != digest)

    def _fetch(self, commit: str, digests: Mapping[str, str], folder: Path) -> None:
        self._api.snapshot_download(
            self.repository,
            revision=commit,
            cache_dir=folder / ".cache",
            local_dir=folder,
            allow_patterns=[glob.escape(name) for name in digests],
        )

    def _base(self) -> str:
        return redacted(f"{self._api.endpoint}/{self.repository}", self._token)

    def _pull_url(self, number: int | None) -> str:
        return f"{self._base()}/discussions/{number}"

    def _url(self, commit: str) -> str:
        return f"{self._base()}/commit/{commit}"

    def _tried(self, what: str, body: Callable[[], T]) -> T:
        """What `body` gives, after at most four tries. Each begins anew: it sees what the one before has done."""
        with redacted_log(self._token), _no_bars(not self._client_bars):
            for attempt in range(1, _TRIES + 1):
                try:
                    return body()
                except (UserError, PushFailed):
                    raise
                except Exception as error:
                    failure = self._failure(error, what)
                    if not isinstance(failure, PushFailed):
                        raise failure from None
                    if attempt == _TRIES:
                        raise PushFailed(f"{failure}; run the same command again to go on") from None
                    wait = min(_LONGEST_WAIT, max(_FIRST_WAIT * 2 ** (attempt - 1), failure.wait))
                    log.info("push: %s; try %d of %d in %.0f s", failure, attempt + 1, _TRIES, wait)
                    time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _failure(self, error: Exception, what: str) -> Exception:
        """As a line for the user; an error of our own code keeps its traceback, without the token."""
        failure = failure_of(error, f"push to {self.repository}, {what}", self.repository, self._token)
        if failure is not None:
            return failure
        if isinstance(error, OSError) and error.errno is not None:  # of a file here: the disk is full
            return error
        told = redacted("".join(traceback.format_exception(error)), self._token)
        return RuntimeError(f"push to {self.repository}, {what}, came to an end that was not foreseen:\n{told}")


def _same(file: Path, sha256: str, there: tuple[str, str] | None) -> bool:
    """Whether the Hub has a file with this content: it tells a big file's SHA-256, and git's hash of a small one."""
    if there is None:
        return False
    kind, digest = there
    return digest == (sha256 if kind == "sha256" else git_hash(file.read_bytes()))


def git_hash(content: bytes) -> str:
    """As git names a file's content.

    >>> git_hash(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _limit_waits() -> None:
    """Give the Hub's client a time limit for each answer, in this process; before version 1 it cannot be given one."""
    import huggingface_hub
    from huggingface_hub.utils import get_session

    set_factory = getattr(huggingface_hub, "set_client_factory", None)
    if set_factory is None:
        return
    usual = get_session()
    if usual.timeout.read == ANSWER_SECONDS:  # it has it already; another client takes a tenth of a second to make
        return
    client, hooks, timeout = type(usual), usual.event_hooks, type(usual.timeout)(ANSWER_SECONDS, connect=30.0)
    set_factory(lambda: client(event_hooks=hooks, follow_redirects=True, timeout=timeout))


@contextmanager
def _no_bars(wanted: bool) -> Iterator[None]:
    """The client's own bars would fill a log file."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not wanted or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
