"""The embedded real domain: what is taken from source code, how it is merged, split and kept apart."""

from __future__ import annotations

import ast
import doctest
import sys
from pathlib import Path

import pytest

from bgetune.config_data import SourceConfig
from bgetune.data import RetrievalSet, read_retrieval_set
from bgetune.errors import UserError
from data_prep import __main__, functions, neardup, rows, split
from data_prep.functions import code_without_docstring, functions_in
from data_prep.harvest import harvest
from data_prep.neardup import near_duplicates


@pytest.mark.parametrize("module", [functions, neardup, rows, split])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


# -- reading functions


def only_code(source: str) -> str:
    node = ast.parse(source).body[0]
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return code_without_docstring(node, source.split("\n"))


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (
            'def f(x):\n    """Doc.\n\n    More.\n    """\n\n    # why\n    return  x\n',
            "def f(x):\n    # why\n    return  x",
        ),
        ('@cached\nasync def f():\n    "Doc."\n    return 1\n', "@cached\nasync def f():\n    return 1"),
        ('def f(): "Doc."; return 1\n', "def f(): return 1"),
        ('def f():\n    """Doc."""; x = 1\n    return x\n', "def f():\n    x = 1\n    return x"),
        ('def f():\n    """Doc é."""  # é\n    return "é"\n', 'def f():\n    # é\n    return "é"'),
        ('def f():\n    """Doc."""\n    return """a\nb"""\n', 'def f():\n    return """a\nb"""'),
    ],
)
def test_code_keeps_its_layout_and_loses_its_docstring(source, code):
    assert only_code(source) == code
    ast.parse(code)


SOURCE = '''
class Reader:
    """A class."""
    def read(self, n):
        """Read up to n
        bytes.

        Second paragraph.
        """
        def inner():
            """Nobody can call this one."""
            return 1
        return self.file.read(n)

    def _hidden(self):
        """Private, and kept all the same."""
        one = 1
        two = 2
        return one + two

    def empty(self):
        """Only a docstring, no code."""

    def bare(self):
        one = 1
        two = 2
        return one + two

    def four_words(self):
        """Return the file's name."""
        one = 1
        two = 2
        return one + two

    def three_lines(self):
        """Return the name of the file."""
        name = self.name
        return name

if True:
    def late(x):
        """Defined in a branch, found."""
        y = x
        z = y
        return z
'''


def test_functions_of_a_file(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    found = list(functions_in(tmp_path / "m.py", "pkg/m.py"))
    assert [(f.file, f.name, f.summary) for f in found] == [
        ("pkg/m.py", "Reader.read", "Read up to n bytes."),
        ("pkg/m.py", "Reader._hidden", "Private, and kept all the same."),
        ("pkg/m.py", "late", "Defined in a branch, found."),
    ]
    assert found[0].code.startswith("def read(self, n):\n    def inner():")


@pytest.mark.parametrize("content", [b"def f(:\n", b"\xff\xfe\x00", b"x = '\x00'\n", b"# -*- coding: nonsense -*-\n"])
def test_a_file_that_does_not_parse_is_passed_over(tmp_path, content):
    (tmp_path / "m.py").write_bytes(content)
    assert list(functions_in(tmp_path / "m.py", "m.py")) == []


# -- a package made for the purpose


def write_package(root: Path, name: str, files: dict[str, str]) -> None:
    for file, text in {"__init__.py": "", **files}.items():
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def function(name: str, doc: str, body: str) -> str:
    return f'def {name}():\n    """{doc}"""\n    low = None\n    high = None\n    return {body}\n\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Ten modules of two functions; one function in two modules, one query in two modules, a test folder."""
    files = {
        f"m{i}.py": function(f"alpha{i}", f"Alpha number{i} does thing{i} well{i}.", f"one{i} + two{i} + three{i}")
        + function(f"beta{i}", f"Beta item{i} makes part{i} fast{i}.", f"four{i} + five{i} + six{i}")
        for i in range(10)
    }
    files["m0.py"] += function("shared", "Shared query of two modules.", "first_answer")
    files["m5.py"] += function("shared_too", "shared QUERY of Two modules.", "second_answer * 3")
    files["m1.py"] += function("twin", "Twin that lives in one.", "twin_body")
    files["m6.py"] += function("twin", "Another twin, found in six.", "twin_body")
    files["m2.py"] += function("again", "Said once in this module.", "here") + function(
        "again", "Here is the second answer.", "there"
    )
    files["tests/test_x.py"] = files["test_y.py"] = function("check", "A test that nobody asks.", "1")
    write_package(tmp_path, "bgetune_toy", files)
    (tmp_path / "bgetune_single.py").write_text(function("lonely", "All alone in a file.", "nothing"))
    write_package(tmp_path, "bgetune_undocumented", {"a.py": "def f():\n    x = 1\n    y = 2\n    return x + y\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    return "bgetune_toy"


def toy(package: str, guard: bool = False, **options: object) -> RetrievalSet:
    return harvest(SourceConfig(kind="harvest", packages=(package,), **options), guard)  # type: ignore[arg-type]


def test_ids_say_where_a_passage_comes_from(package):
    data = toy(package)
    assert data.corpus.ids == sorted(data.corpus.ids)
    assert {"bgetune_toy/m2.py:again", "bgetune_toy/m2.py:again#2"} < set(data.corpus.ids)
    assert not any("test" in passage_id for passage_id in data.corpus.ids)


def test_equal_texts_are_merged(package):
    data = toy(package, guard=True)
    assert set(data.qrels) == {"test"}
    folded = [text.casefold() for text in data.queries.texts]
    assert len(folded) == len(set(folded))
    shared = data.queries.ids[folded.index("shared query of two modules.")]
    assert set(data.qrels["test"][shared]) == {"bgetune_toy/m0.py:shared", "bgetune_toy/m5.py:shared_too"}
    assert len(data.corpus.texts) == len(set(data.corpus.texts))
    twins = [query for query, of in data.qrels["test"].items() if "bgetune_toy/m1.py:twin" in of]
    assert len(twins) == 2


def test_the_seed_decides_the_split_and_nothing_else_does(package):
    assert toy(package, seed=1) == toy(package, seed=1)
    assert any(toy(package, seed=1).qrels != toy(package, seed=i).qrels for i in range(2, 6))


def test_max_pairs_keeps_a_stable_choice(package):
    few, more = toy(package, True, max_pairs=10), toy(package, True, max_pairs=15)
    assert len(few.corpus) <= 10
    assert set(few.corpus.ids) <= set(more.corpus.ids)


def assert_apart(data: RetrievalSet) -> None:
    """No query, near-duplicate query or near-duplicate positive in two splits."""
    passage = dict(zip(data.corpus.ids, data.corpus.texts, strict=True))
    sides = ("train", "dev", "test")
    for i, one in enumerate(sides):
        for other in sides[i + 1 :]:
            assert near_duplicates(data.queries_of(one).texts, data.queries_of(other).texts) == []
            positives = [[passage[p] for of in data.qrels[side].values() for p in of] for side in (one, other)]
            assert near_duplicates(*positives) == []


@pytest.mark.parametrize("seed", range(8))
def test_no_text_is_on_two_sides(package, seed):
    assert_apart(toy(package, seed=seed))


def test_packages_are_found_without_importing_them(package, tmp_path):
    write_package(
        tmp_path,
        "bgetune_bomb",
        {"__init__.py": "raise SystemExit(1)\n" + function("f", "Safe as long as unread.", "1")},
    )
    assert toy("bgetune_bomb", guard=True).corpus.ids == ["bgetune_bomb/__init__.py:f"]
    assert toy("bgetune_single", guard=True).corpus.ids == ["bgetune_single.py:lonely"]


@pytest.mark.parametrize("name", ["no_such_package_x", "os.path", "", "../evil"])
def test_a_missing_package_is_named(name):
    source = SourceConfig(kind="harvest", packages=(name,))
    with pytest.raises(UserError, match=r"data\.guards\.code\.packages: no package .* is installed") as caught:
        harvest(source, True, "data.guards.code.packages")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["bgetune_undocumented", "_sre"])
def test_a_package_without_documented_functions_is_named(package, name):
    with pytest.raises(UserError, match="has no documented Python function"):
        toy(name)


# -- the standard library itself


@pytest.fixture(scope="module")
def stdlib() -> RetrievalSet:
    return harvest(SourceConfig(kind="harvest"), guard=False)


def test_stdlib_has_the_promised_size(stdlib):
    sizes = {split: len(qrels) for split, qrels in stdlib.qrels.items()}
    if sys.version_info[:2] == (3, 11):
        assert 3700 < len(stdlib.corpus) < 3850  # a patch release moves a few
    assert len(stdlib.corpus) > 2500
    assert all(sizes[split] > least for split, least in (("train", 1500), ("dev", 200), ("test", 400)))
    # private functions count, and so do folders that a distribution may leave out
    assert "json/decoder.py:JSONDecoder.decode" in stdlib.corpus.ids
    assert any(passage_id.rpartition(".")[2].startswith("_") for passage_id in stdlib.corpus.ids)
    assert not any(passage_id.startswith(("test/", "unittest/test/")) for passage_id in stdlib.corpus.ids)
    assert not any(c.isspace() for passage_id in [*stdlib.corpus.ids, *stdlib.queries.ids] for c in passage_id)
    assert min(len(text.split()) for text in stdlib.queries.texts) >= 5
    assert min(len(text.splitlines()) for text in stdlib.corpus.texts) >= 4


def test_stdlib_splits_are_apart(stdlib):
    assert_apart(stdlib)


def test_the_command_writes_the_same_bytes_twice(package, tmp_path, capsys):
    for name in ("a", "b"):
        assert __main__.main(["harvest", "--out", str(tmp_path / name), "--packages", package, "--seed", "3"]) == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert read_retrieval_set(tmp_path / "a").qrels.keys() == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["harvest"], "--out"),
        (["harvest", "--out", "x", "--sead", "1"], "unrecognized arguments: --sead"),
        (["harvest", "--out", "x", "--max-pairs", "3"], "--max-pairs: 3 will not do; 10 or more"),
        (["harvest", "--out", "x", "--packages", "no_such_package_x"], "--packages: no package 'no_such_package_x'"),
        (["harvst"], "unknown command 'harvst'; did you mean \"harvest\"?"),
        (["zzz"], "unknown command 'zzz'; choose one of harvest, prepare, mine, validate"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert __main__.main(["harvest", "--out", str(tmp_path)]) == 2
    assert "holds files that are not a retrieval set's" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_help_teaches_the_commands(capsys):
    assert __main__.main([]) == 2
    assert __main__.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in ("harvest", "prepare", "mine", "validate"))
