"""A retrieval set out of installed Python code: the docstring's first paragraph finds the function's code."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bgetune.config_data import SourceConfig
from bgetune.data import SPLITS, Qrels, RetrievalSet, Texts
from bgetune.errors import UserError

from .functions import Function, functions_in
from .neardup import near_duplicates
from .split import fill, stable_hash

_INSTALLED = frozenset(("site-packages", "dist-packages"))
_TEST_FOLDERS = frozenset(("test", "tests", "idle_test"))


@dataclass(frozen=True)
class _Pair:
    """One function as a query and its answer; `module` is the unit that is never split."""

    query: str
    passage: str
    passage_id: str
    module: str


def harvest(source: SourceConfig, guard: bool, option: str = "packages") -> RetrievalSet:
    """Every documented function of the named packages: summary -> code without docstring.

    Equal passages are one passage, equal queries (case folded) one query with several positives. Whole modules go to
    test, dev or train, in the order of the hash of (seed, module); a query with answers in several goes to test before
    dev before train, with all of them. Then train loses every query that is a near-duplicate (token Jaccard >= 0.8) of
    a dev or test query, or has a positive that is one of a dev or test positive; dev loses the same against test. It
    loses the whole query, not one of its positives: what answers a query must not come back as its hard negative.
    Passages of lost queries stay in the corpus as distractors.

    Args:
        source: `packages` (`stdlib` or import names), `max_pairs`, the shares and the seed count here.
        guard: all queries become test; no module is held back.
        option: the option that named the packages, for messages.

    Returns:
        Corpus and queries sorted by id, titles empty. A passage id reads `json/decoder.py:JSONDecoder.decode`.

    Raises:
        UserError: a package is not installed or has no documented function.
    """
    pairs = _pairs(source, option)
    if source.max_pairs is not None:
        pairs = sorted(pairs, key=lambda pair: stable_hash(source.seed, pair.passage_id))[: source.max_pairs]
    return _retrieval_set(sorted(pairs, key=lambda pair: pair.passage_id), source, guard)


def _pairs(source: SourceConfig, option: str) -> list[_Pair]:
    pairs: list[_Pair] = []
    used: dict[str, int] = {}
    for package in sorted(set(source.packages)):
        # the modules of one package are its own files and folders; those of the standard library, the top-level ones
        depth = 1 if package == "stdlib" else 2
        before = len(pairs)
        for function in _functions_of(package, option):
            name = f"{function.file}:{function.name}"
            used[name] = used.get(name, 0) + 1
            passage_id = name if used[name] == 1 else f"{name}#{used[name]}"
            module = "/".join(function.file.split("/")[:depth])
            pairs.append(_Pair(function.summary, function.code, passage_id, module))
        if len(pairs) == before:
            raise UserError(f"{option}: {package!r} has no documented Python function; name another package")
    if not pairs:
        raise UserError(f"{option}: no package is named; use `stdlib` or names of installed packages")
    return pairs


def _functions_of(package: str, option: str) -> Iterator[Function]:
    for base, path in _python_files(package, option):
        relative = path.relative_to(base).as_posix()
        yield from functions_in(path, "_".join(relative.split()))


def _python_files(package: str, option: str) -> list[tuple[Path, Path]]:
    """(the folder that names are relative to, file), sorted by name; tests left out."""
    left_out = _TEST_FOLDERS | _INSTALLED if package == "stdlib" else _TEST_FOLDERS
    files: list[tuple[Path, Path]] = []
    for base, root in _roots(package, option):
        if root.is_file():
            files.append((base, root))
        for folder, inner, names in os.walk(root):
            inner[:] = [name for name in inner if name not in left_out and not name.startswith("config-")]
            wanted = [name for name in names if name.endswith(".py") and name not in left_out]
            files += [(base, Path(folder, name)) for name in wanted if not name.startswith(("test_", "conftest."))]
    return sorted(files, key=lambda pair: pair[1].relative_to(pair[0]).as_posix())


def _roots(package: str, option: str) -> list[tuple[Path, Path]]:
    """(the folder that names are relative to, the package's folder or file)."""
    if package == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        return [(root, root)]
    spec = _find_spec(package)
    if spec is None:
        raise UserError(f"{option}: no package {package!r} is installed; install it, or name others (by import name)")
    if spec.submodule_search_locations:
        return [(Path(place).parent, Path(place)) for place in spec.submodule_search_locations]
    if spec.origin and spec.origin.endswith(".py"):
        return [(Path(spec.origin).parent, Path(spec.origin))]
    return []


def _find_spec(package: str) -> importlib.machinery.ModuleSpec | None:
    """Where a top-level package is, without importing it; a dotted name would import its parent."""
    if not package.isidentifier():
        return None
    try:
        return importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: loaded without a spec, as __main__ is
        return None


def _retrieval_set(pairs: list[_Pair], source: SourceConfig, guard: bool) -> RetrievalSet:
    """Merge equal texts, split, and keep what no other split gives away. `pairs` are sorted by passage id."""
    passages: dict[str, str] = {}  # text -> id
    queries: dict[str, tuple[str, str]] = {}  # folded text -> (id, text)
    answers: Qrels = {}
    modules: dict[str, set[str]] = {}  # query id -> where its answers are
    for pair in pairs:
        passage_id = passages.setdefault(pair.passage, pair.passage_id)
        query_id, _ = queries.setdefault(pair.query.casefold(), (f"q:{pair.passage_id}", pair.query))
        answers.setdefault(query_id, {})[passage_id] = 1
        modules.setdefault(query_id, set()).add(pair.module)
    passage_texts = {passage_id: text for text, passage_id in passages.items()}
    query_texts = dict(queries.values())
    if guard:
        home = dict.fromkeys(answers, "test")
    else:
        home = _split_by_module(pairs, modules, source)
        _drop_near_duplicates(home, answers, query_texts, passage_texts)
    kept = sorted(home)
    qrels: dict[str, Qrels] = {}
    for split in SPLITS:
        of_split = {query_id: answers[query_id] for query_id in kept if home[query_id] == split}
        if of_split:
            qrels[split] = of_split
    corpus = sorted(passage_texts)
    return RetrievalSet(
        Texts(corpus, [passage_texts[passage_id] for passage_id in corpus]),
        Texts(kept, [query_texts[query_id] for query_id in kept]),
        qrels,
    )


def _split_by_module(pairs: list[_Pair], modules: dict[str, set[str]], source: SourceConfig) -> dict[str, str]:
    """Query id -> split."""
    names = sorted({pair.module for pair in pairs}, key=lambda name: stable_hash(source.seed, name))
    sizes = [sum(pair.module == name for pair in pairs) for name in names]
    splits = dict(zip(names, fill(sizes, [("test", source.test_share), ("dev", source.dev_share)]), strict=True))
    # SPLITS goes from train to test, the split that wins
    return {query: max((splits[name] for name in of), key=SPLITS.index) for query, of in modules.items()}


def _drop_near_duplicates(
    home: dict[str, str], answers: Qrels, query_texts: dict[str, str], passage_texts: dict[str, str]
) -> None:
    """Remove from `home` the train queries too near to dev or test, and the dev queries too near to test."""
    for split, protected in (("dev", ("test",)), ("train", ("dev", "test"))):
        here = [query_id for query_id in home if home[query_id] == split]
        there = [query_id for query_id in home if home[query_id] in protected]
        near_queries = _near(here, there, query_texts)
        near_passages = _near(_answers_of(here, answers), _answers_of(there, answers), passage_texts)
        for query_id in here:
            if query_id in near_queries or near_passages.intersection(answers[query_id]):
                del home[query_id]


def _answers_of(query_ids: Iterable[str], answers: Qrels) -> list[str]:
    return sorted({passage_id for query_id in query_ids for passage_id in answers[query_id]})


def _near(here: list[str], there: list[str], texts: dict[str, str]) -> set[str]:
    """The ids of `here` whose text is a near-duplicate of one of `there`; the same id counts."""
    found = near_duplicates([texts[i] for i in here], [texts[i] for i in there])
    return {here[i] for i, _ in found}
