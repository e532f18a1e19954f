"""Readers: every kind of file gives its text and where it stands; every broken one is a line with its path."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgetune.config_data import DocumentsConfig, SourceConfig
from bgetune.data import RetrievalSet, read_retrieval_set, write_retrieval_set
from bgetune.errors import UserError
from data_prep.documents.build import documents_set
from data_prep.documents.read import File, read_parts


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def read(path: Path, columns: dict[str, str] | None = None, **options: Any) -> RetrievalSet:
    known = {"min_tokens": 1, "builders": ("question_answer", "faq", "heading_section", "title_body"), **options}
    source = SourceConfig(kind="documents", path=str(path), columns=columns or {}, documents=DocumentsConfig(**known))
    return documents_set(source, words, "data.domain")


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def passages(data: RetrievalSet) -> list[tuple[str, str, int]]:
    """(section, text, start) of each passage."""
    rows = zip(data.corpus.metadata, data.corpus.texts, strict=True)
    return [(known["section"], text, known["start"]) for known, text in rows]


def pdf(pages: Sequence[str], title: str = "", outline: Sequence[tuple[str, int]] = (), password: str = "") -> bytes:
    """A PDF whose pages show these lines in Helvetica."""
    import io

    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    kinds = {"Type": "Font", "Subtype": "Type1", "BaseFont": "Helvetica"}
    font = DictionaryObject({NameObject(f"/{key}"): NameObject(f"/{value}") for key, value in kinds.items()})
    for text in pages:
        page = writer.add_blank_page(600, 800)
        shown = " ".join(f"({line}) Tj 0 -14 Td" for line in text.split("\n"))
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 40 700 Td {shown} ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    for heading, number in outline:
        writer.add_outline_item(heading, number)
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    held = io.BytesIO()
    writer.write(held)
    return held.getvalue()


def test_markdown(tmp_path):
    write(
        tmp_path / "a.md",
        "---\ntitle: Not this\n---\n# Pump\n\nIt moves water\nuphill &amp; far.\n\n## Care ##\n\n- Clean it.\n"
        "  - Dry it.\n1. Vec<T> `x`\n\n```sh\nrun  me\n\n  now\n```\n\n### Deep\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    )
    data = read(tmp_path / "a.md", builders=())
    assert passages(data) == [
        ("", "It moves water\nuphill & far.", 6),
        ("Care", "- Clean it.\n  - Dry it.\n1. Vec<T> x\nrun  me\n\n  now", 11),
        ("Care > Deep", "a | b\n1 | 2", 23),
    ]
    assert data.corpus.titles == ["Pump", "Pump > Care", "Pump > Care > Deep"]
    assert data.corpus.ids == ["a.md#0001", "a.md#0002", "a.md#0003"]
    assert len(data.queries) == 0
    assert data.qrels == {"train": {}}


def test_html(tmp_path):
    write(
        tmp_path / "a.html",
        "<!doctype html><html><head><title>Site &raquo; Pump</title><style>x{}</style></head>\n<body><nav>Home</nav>"
        "<script>var a = '<p>no</p>'</script>\n<h2>Caf&eacute; <a href=#>¶</a></h2>\n"
        "<p>One&nbsp;two<p>three <b>four</b>"
        "<!-- no -->\n<ul><li>five<li>six</ul><pre>\na\n  b</pre><table><tr><td>x<td>y</table>"
        "<p hidden>no<footer>no</footer></body>",
    )
    data = read(tmp_path / "a.html", builders=())
    assert passages(data) == [("Café", "One two\nthree four\n- five\n- six\na\n  b\nx | y", 4)]
    assert data.corpus.titles == ["Site » Pump > Café"]


def test_html_of_a_page_with_main_and_layout_tables(tmp_path):
    main = "<table><tr><td><h1>A title</h1><p>One.</p><p>Two.</p></td></tr></table>"
    write(tmp_path / "a.html", f"<body><p>menu</p><main>{main}</main></body>")
    data = read(tmp_path, builders=())
    assert data.corpus.texts == ["One.\nTwo."]
    assert data.corpus.titles == ["A title"]


def test_html_in_the_encoding_that_it_declares(tmp_path):
    write(tmp_path / "a.html", '<meta charset="latin-1"><p>Straße</p>'.encode("latin-1"))
    assert read(tmp_path / "a.html").corpus.texts == ["Straße"]


def test_html_with_thousands_of_open_tags(tmp_path):
    write(tmp_path / "a.html", "<p>one <i>two" * 5000)
    assert sum(words(read(tmp_path / "a.html").corpus.texts)) == 10_000


def test_text_with_windows_newlines_and_a_title(tmp_path):
    write(tmp_path / "a.txt", "\ufeffThe pump\r\n\r\nFirst line\r\nof two. 🙂 And on.\r\n\r\n  \r\n今日は。")
    data = read(tmp_path / "a.txt", chunk_tokens=5)
    assert passages(data) == [("", "First line\nof two.", 3), ("", "🙂 And on.\n今日は。", 4)]
    assert data.queries.texts == ["The pump"]


def test_pdf(tmp_path):
    running = "The running title {}\n"
    pages = [
        running.format(1) + "Some text about an exam-\nple of it.",
        running.format(2) + "More text here.",
        running.format(3) + "2 Care\nClean it well.",
        running.format(4) + "The end of it.",
    ]
    write(tmp_path / "a.pdf", pdf(pages, "Of pumps", [("Care", 2)]))
    data = read(tmp_path / "a.pdf", chunk_tokens=9)
    assert passages(data) == [
        ("", "Some text about an example\nof it.", 1),
        ("", "More text here.", 2),
        ("Care", "Clean it well.\nThe end of it.", 3),
    ]
    assert data.queries.texts == ["Of pumps", "Of pumps: Care"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.md", b"\xff\xfe\x00binary", "a.md:1: not UTF-8 text"),
        ("a.md", b"fine\nthen \xc3\x28", "a.md:2: not UTF-8 text"),
        ("a.txt", b"one\ntwo\x00", "a.txt:2: a NUL character"),
        ("a.md", b" \n", "data.domain.path: no text in"),
        ("a.html", b"<html><script>x</script></html>", "a.html; name a file"),
        ("a.pdf", b"%PDF-1.4 nothing", "a.pdf: cannot be read as PDF"),
        ("a.pdf", b"", "a.pdf: cannot be read as PDF"),
        ("a.pdf", pdf(["", ""]), "a.pdf: no text in any of its 2 pages (a scan?)"),
        ("a.pdf", pdf(["text"], password="secret"), "a.pdf: locked by a password"),
        ("a.csv", b"question,answer\n", "data.domain.path: no text in"),
        ("a.csv", b"", "data.domain.path: no text in"),
        ("a.csv", b"text\na\nb\x00\n", "a.csv:3: a NUL character"),
        ("a.csv", b"text\na\n\xff\n", "a.csv:3: not UTF-8 text"),
        ("a.csv", b"question,answer\na,b\nc,d,e\n", "a.csv:3: 3 cells where the header has 2"),
        ("a.csv", b'question,answer\na,b\n"c,d\ne,f\n', "a.csv:3: not valid csv (unexpected end of data)"),
        ("a.csv", b"text,text\na,b\n", "a.csv:1: the column 'text' is there twice"),
        ("a.csv", b"x,y\na,b\n", "a.csv: none of its columns (x, y) has a name"),
        ("a.tsv", b"question\tanswer\nhow?\t \n", 'a.tsv:2: "answer" is missing or empty'),
        ("a.jsonl", b'{"text": "a"}\n{"text": {"b": 1}}\n', 'a.jsonl:2: "text" must be a text or a number, got'),
        ("a.jsonl", b'{"question": "How?", "answer": [true]}\n', "must be a text or a number, got 'True'"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl:3: not valid JSON"),
        ("a.parquet", b"PAR1 no", "a.parquet: cannot be read as parquet"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_broken_files_of_a_folder_are_named(tmp_path):
    write(tmp_path / "b" / "c.md", b"\xff")
    write(tmp_path / "a.txt", "one\x00")
    write(tmp_path / "good.txt", "Good text.")
    with pytest.raises(UserError, match=r"a\.txt:1: a NUL.*\(other files that cannot be read: b/c\.md\)"):
        read(tmp_path)


def test_a_folder(tmp_path, caplog):
    write(tmp_path / "b.txt", "Second.")
    write(tmp_path / "a" / "z y.MD", "Nested.")
    write(tmp_path / "a.txt", "First.")
    write(tmp_path / ".hidden" / "a.txt", "no")
    write(tmp_path / "a" / ".a.txt", "no")
    write(tmp_path / "x.png", b"\x89")
    write(tmp_path / "y.PNG", b"\x89")
    with caplog.at_level(logging.INFO):
        data = read(tmp_path)
    assert data.corpus.ids == ["a.txt#0001", "a/z%20y.MD#0001", "b.txt#0001"]
    assert [known["document"] for known in data.corpus.metadata] == ["a.txt", "a/z y.MD", "b.txt"]
    assert [record.message for record in caplog.records] == [f"{tmp_path}: files of other kinds left out: .png (2)"]
    assert read(tmp_path, include=("*.txt",)).corpus.ids == ["a.txt#0001", "b.txt#0001"]
    assert read(tmp_path, include=("a/*",)).corpus.ids == ["a/z%20y.MD#0001"]
    assert read(tmp_path, exclude=("a/*",)).corpus.ids == ["a.txt#0001", "b.txt#0001"]
    assert read(tmp_path, include=("*.txt",), exclude=("a.*",)).corpus.ids == ["b.txt#0001"]
    with pytest.raises(UserError, match=r"data\.domain\.documents\.exclude: \* leaves none of 5 files"):
        read(tmp_path, exclude=("*",))
    with pytest.raises(UserError, match=r"data\.domain\.documents\.include: \*\.rst names none of the 5 files"):
        read(tmp_path, include=("*.rst",))


def test_paths_that_will_not_do(tmp_path):
    with pytest.raises(UserError, match=r"data\.domain\.path: .*nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.domain\.path: .* holds no file that can be read"):
        read(tmp_path)
    with pytest.raises(UserError, match="of a kind that cannot be read"):
        read(write(tmp_path / "a.docx", "x"))
    with pytest.raises(UserError, match=r"data\.domain\.documents\.min_tokens: no text of 9 tokens"):
        read(write(tmp_path / "a.txt", "Only four words here."), min_tokens=9)


def test_pages_without_text_are_left_out_and_named(tmp_path, caplog):
    for i in range(12):
        write(tmp_path / f"e{i:02}.txt", " \n" if i else "")
    write(tmp_path / "a.md", "# Only a heading\n")
    write(tmp_path / "b.html", '<meta http-equiv="refresh" content="0; url=c.html"><script>x</script>')
    write(tmp_path / "c.jsonl", "")
    write(tmp_path / "d.csv", "question,answer\n")
    write(tmp_path / "good.txt", "Good text.")
    with caplog.at_level(logging.INFO):
        assert read(tmp_path).corpus.ids == ["good.txt#0001"]
    [record] = caplog.records
    names = "a.md, b.html, c.jsonl, d.csv, e00.txt, e01.txt, e02.txt, e03.txt, e04.txt, e05.txt"
    assert record.message == f"{tmp_path}: 16 files without text left out: {names} and 6 more"
    with pytest.raises(UserError, match=r"data\.domain\.path: no text in "):
        read(tmp_path, exclude=("good.*",))


def test_what_is_too_short_is_counted(tmp_path, caplog):
    write(
        tmp_path / "a.md",
        "## Part one\n\nToo short.\n\n## Part two\n\nLong enough to be a passage.\n\n## Part three\n\nNo.\n",
    )
    with caplog.at_level(logging.INFO):
        assert len(read(tmp_path, min_tokens=5).corpus) == 1
    assert [r.message for r in caplog.records] == [
        f"{tmp_path}: 2 texts under a heading left out, of fewer than documents.min_tokens = 5 tokens"
    ]


def test_a_page_that_is_all_a_form(tmp_path):
    form = "<form action=x><p>All of it.</p><label>Name</label><input name=a><select><option>no</select></form>"
    write(tmp_path / "a.html", f"<title>Page</title>{form}")
    data = read(tmp_path)
    assert data.corpus.texts == ["All of it.\nName"]
    write(tmp_path / "a.html", "")
    write(tmp_path / "a.md", "Text.\n\n<form>\n<p>More.</p>\n</form>\n")
    assert read(tmp_path).corpus.texts == ["Text.\nMore."]


def test_a_large_page_keeps_its_lines(tmp_path):
    parts = [f"<h2>Head {i}</h2>\n<p>Some <b>bold</b> text of it {i}.</p>\n" for i in range(1000)]
    write(tmp_path / "a.html", "".join(parts))
    data = read(tmp_path, builders=())
    assert [known["start"] for known in data.corpus.metadata] == list(range(2, 2001, 2))


def test_tables_with_other_headers_side_by_side(tmp_path):
    write(tmp_path / "a.csv", "frage,antwort,nr\nWie hoch?,Zehn.,x1\n")
    write(tmp_path / "b.csv", "question,answer\nHow low?,Two.\n")
    write(tmp_path / "c.csv", "text\nOnly a text.\n")
    columns = {"query": "frage", "positive": "antwort", "id": "nr"}
    data = read(tmp_path, columns)
    assert data.corpus.ids == ["x1", "b.csv#0001", "c.csv#0001"]
    assert data.queries.texts == ["Wie hoch?", "How low?"]
    with pytest.raises(
        UserError, match=r"data\.domain\.columns: no table of .* has a column 'nrr'; did you mean \"nr\""
    ):
        read(tmp_path, {**columns, "id": "nrr"})
    write(tmp_path / "d.csv", "p,q\na,b\n")
    with pytest.raises(UserError, match=r"data\.domain\.columns: .*d\.csv has no column 'frage'"):
        read(tmp_path, columns)
    write(tmp_path / "d.csv", "frage,text\na,A text.\n")  # half a pair is none
    assert read(tmp_path, columns).corpus.texts[-1] == "A text."


def test_numbers_are_texts(tmp_path):
    rows = [("How many?", 4), ("How much?", 1.5), ("Which ones?", [7, "eight"])]
    lines = [json.dumps({"question": query, "answer": answer}) + "\n" for query, answer in rows]
    assert read(write(tmp_path / "a.jsonl", "".join(lines))).corpus.texts == ["4", "1.5", "7", "eight"]
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "n.parquet"
    pq.write_table(pa.table({"text": [2.5, 3.0], "title": [float("nan"), 1.0]}), path)
    data = read(path, builders=())
    assert (data.corpus.texts, data.corpus.titles) == (["2.5", "3.0"], ["", "1.0"])


def test_a_table_is_read_in_parts_that_change_nothing(tmp_path, monkeypatch):
    rows = [f"How is it with {i}?,Text {i % 7} of it.\n" for i in range(25)]
    path = write(tmp_path / "a.csv", "question,answer\n" + "".join(rows))
    whole = read(path)
    monkeypatch.setattr("data_prep.documents.tables._ROWS_AT_ONCE", 3)
    assert read(path) == whole
    assert len(whole.corpus) == 7
    assert len(whole.queries) == 25
    source = SourceConfig(kind="documents", path=str(path))
    parts = list(read_parts(File(path, "a.csv"), source, "data.domain"))
    assert [len(part.documents) for part in parts] == [3] * 8 + [1]
    assert parts[0].read == 3 / 25
    assert parts[-1].read == 1


@pytest.mark.parametrize("kind", ["csv", "semicolon", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path, kind):
    rows = [
        {"Question": "How high?", "Answer": 'Ten, "or" so.\nAt most.', "group": "g1"},
        {"Question": "How low?", "Answer": "042", "group": "g2"},
        {"Question": "How deep?", "Answer": "042", "group": "g2"},
    ]
    path = tmp_path / f"t.{'csv' if kind == 'semicolon' else kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        import pandas as pd

        separator = {"csv": ",", "semicolon": ";", "tsv": "\t"}[kind]
        pd.DataFrame(rows).to_csv(path, sep=separator, index=False)
    data = read(path, min_tokens=12)
    assert data.corpus.texts == ['Ten, "or" so.\nAt most.', "042"]
    by_text = dict(zip(data.queries.texts, data.queries.ids, strict=True))
    assert [data.qrels["train"][by_text[row["Question"]]] for row in rows] == [
        {f"{path.name}#0001": 1},
        {f"{path.name}#0002": 1},
        {f"{path.name}#0002": 1},
    ]
    assert [known["group"] for known in data.corpus.metadata] == ["g1", "g2"]
    first, second = {"jsonl": (1, 2), "parquet": (1, 2)}.get(kind, (2, 4))
    assert [known["start"] for known in data.corpus.metadata] == [first, second]


def test_the_set_is_written_and_read_again(tmp_path):
    write(tmp_path / "in" / "a.md", "# The pump\n\nIt moves water. 🙂\n\n## Its care\n\nClean it.\n")
    data = read(tmp_path / "in")
    write_retrieval_set(tmp_path / "out", data)
    again = read_retrieval_set(tmp_path / "out")
    assert (again.corpus.ids, again.corpus.metadata) == (data.corpus.ids, data.corpus.metadata)
    assert (again.qrels, again.queries.metadata) == (data.qrels, data.queries.metadata)


MARKUP = (
    """# |## |**|Q: |?|- |```|<b>|</p>|<table><tr>|<details><summary>|<dt>|<pre>|&amp;|<!--|[x](y)|<h2>|1. |---|> """
)
pieces = st.sampled_from(
    [*MARKUP.split("|"), "|", "\n", "\n\n", "\r\n", "\x0c", "    ", "今日は。", "🙂", "\u200d", "Word. "]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=30).map("".join), st.sampled_from(["md", "html", "txt"]))
def test_any_text_is_read_or_refused_and_the_same_each_time(tmp_path, text, suffix):
    path = write(tmp_path / f"a.{suffix}", text)
    seen = []
    for _ in range(2):
        try:
            data = read(path, chunk_tokens=4)
            assert all(text.strip() for text in data.corpus.texts)
            assert max(words(data.corpus.texts)) <= 4
            seen.append((data.corpus, data.queries, data.qrels))
        except UserError as error:
            seen.append(str(error))
    assert seen[0] == seen[1]
