"""`bgetune verify`: the table, the exit codes, the texts, and how differences are measured."""

from __future__ import annotations

import doctest
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bgetune.cli import main
from bgetune.config import ModelConfig
from bgetune.config_export import ExportConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export import reading, texts, verified
from bgetune.export.readers import OF_THE_FOLDER, TRANSFORMERS
from bgetune.export.reading import Read, Reader, cosine_losses, differences, our_read
from bgetune.export.texts import SAMPLE, own_texts, texts_in, texts_to_verify
from bgetune.export.verified import Verified, recorded, verify
from bgetune.export.verify import folder_named, table_text
from bgetune.files import read_json, write_json
from bgetune.layout import EncoderSpec, write_layout
from tests import tiny
from tests.jobs import only_error


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.m3(tmp_path_factory.mktemp("m3") / "export")
    write_layout(folder, EncoderSpec("cls", True, "cosine", "", "", 128, 128), 16)  # 8192 tokens take their time
    return folder


@pytest.fixture
def encoder(m3: Path) -> Encoder:
    return folder_named(str(m3)).encoder


@pytest.fixture
def few(tmp_path: Path) -> list[str]:
    """Options that leave only a few texts to read."""
    file = tmp_path / "texts.txt"
    file.write_text("heart pain\n\nwhat does the lung cure\nunknown wörds 東京 🙂\n", encoding="utf-8")
    return ["--texts", str(file)]


def always(folder: Path, encoder: Encoder) -> bool:
    return True


def test_doctests() -> None:
    for module in (reading, texts):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


# -- the command


def test_a_model_in_every_reader(m3: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["verify", str(m3), "--json", str(tmp_path / "found.json")]) == 0
    out = capsys.readouterr().out
    assert f"{m3}: dense, sparse, multi-vector; weights in fp32; {len(SAMPLE)} texts" in out
    found = read_json(tmp_path / "found.json")
    assert found["texts"] == len(SAMPLE)
    heads = ["dense", "multi_vector", "sparse"]
    for reader in OF_THE_FOLDER:
        rows = [row for row in found["rows"] if row["reader"] == reader.name]
        plain = reader.name in ("sentence-transformers", "FlagEmbedding FlagModel")
        assert sorted(row["head"] for row in rows) == (["dense"] if plain else heads)
        assert all(row["verdict"] == "ok" and row["difference"] <= row["limit"] == 1e-5 for row in rows)
        assert reader.name in out
    # FlagEmbedding gives words their weights where a text writes out <mask>, and takes the first token alone for CLS
    notes = {row["reader"]: row["why"] for row in found["rows"] if row["verdict"] == "ok"}
    assert notes["FlagEmbedding BGEM3FlagModel"] == "without 1 text that spells out special tokens"
    assert notes["transformers"] == ""


def test_a_folder_that_sentence_transformers_pools_otherwise(tmp_path: Path, few: list[str], capsys: Any) -> None:
    """Without modules.json it takes the mean, and says nothing."""
    folder = tiny.model(tmp_path / "model")
    assert main(["verify", str(folder), *few]) == 1
    out = capsys.readouterr().out
    assert "FAILED: what sentence-transformers (dense) gives differs from ours by" in out
    assert out.count("FAILED") == 2  # in the table, and in words
    write_layout(folder, EncoderSpec("mean", False, "dot", "", "", 40, 40), 16)
    assert main(["verify", str(folder), *few]) == 0
    found = folder_named(str(folder))
    assert (found.encoder.spec.pooling, found.encoder.spec.similarity) == ("mean", "dot")
    assert found.encoder.spec.passage_max_length == 40
    assert folder_named(str(folder), 20).encoder.spec.passage_max_length == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "FOLDER: 'nowhere' is no folder here and no Hub id"),
        (["{empty}"], "FOLDER: {empty} holds no config.json"),
        (["{m3}", "--max_length", "9000"], "--max_length: 9000 is more than the 8192 tokens the model takes"),
        (["{m3}", "--texts", "{empty}/none.txt"], "--texts: {empty}/none.txt is no file"),
        (["{m3}", "--max_length", "ten"], "bgetune verify: argument --max_length: invalid int value: 'ten'"),
        (["{m3}", "--max_length", "2"], "--max_length: 2 will not do; use at least 3"),
        (["{m3}", "--tolerance", "1"], "bgetune verify: unrecognized arguments: --tolerance 1; --help shows the"),
        ([], "bgetune verify: the following arguments are required: FOLDER; --help shows the options"),
    ],
)
def test_mistakes(m3: Path, tmp_path: Path, capsys: Any, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    names = {"m3": m3, "empty": tmp_path / "empty"}
    assert main(["verify", *(word.format(**names) for word in words)]) == 2
    assert only_error(capsys).startswith(f"error: {message.format(**names)}")


def test_a_job_without_an_export(tmp_path: Path, capsys: Any) -> None:
    tiny.write_config(tmp_path / "config.yaml", tiny.config(tmp_path))
    assert main(["verify", str(tmp_path)]) == 2
    expected = f"error: FOLDER: the job in {tmp_path} has no export yet; run `bgetune export {tmp_path}` first"
    assert only_error(capsys) == expected


def test_a_form_is_compared_with_the_folder_beside_it(m3: Path, tmp_path: Path, capsys: Any) -> None:
    form = m3.parent / "export-sparse"
    form.mkdir()
    write_json(form / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    assert folder_named(str(form)).path == m3.resolve()
    alone = tmp_path / "export-sparse"
    form.rename(alone)
    assert main(["verify", str(alone)]) == 2
    assert "is a form of an export, which is compared with the main folder" in only_error(capsys)


def test_help_teaches(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--help"])
    assert ended.value.code == 0
    assert "bgetune verify runs/job --texts my_texts.txt" in capsys.readouterr().out


def test_what_the_folder_says_of_itself(m3: Path, tmp_path: Path) -> None:
    spec = EncoderSpec("cls", True, "cosine", "for the ", "a ", 16, 32)
    folder = tiny.model(tmp_path / "model")
    write_layout(folder, spec, 16)
    assert folder_named(str(folder)).encoder.spec == replace(spec, query_max_length=32)
    config = read_json(folder / "config.json")
    config.pop("dtype", None)
    write_json(folder / "config.json", {**config, "torch_dtype": "float16"})  # as transformers before 5 called it
    assert folder_named(str(folder)).precision == "fp16"
    bare = tiny.model(tmp_path / "bare")
    assert folder_named(str(bare)).encoder.spec.passage_max_length == 64


# -- readers


def stranger(read: Any, **options: Any) -> Reader:
    return Reader("stranger", "numpy", always, read, **options)


def rows(m3: Path, encoder: Encoder, *readers: Reader, asked: Sequence[str] = ("heart", "lung")) -> Verified:
    return verify(m3, encoder, asked, 1e-5, readers)


def test_a_reader_that_crashes_is_a_failed_row(m3: Path, encoder: Encoder) -> None:
    def read(*_: Any) -> Read:
        print("noise", file=sys.stderr)
        raise RuntimeError("size mismatch\n  for layer 7")

    found = rows(m3, encoder, stranger(read), TRANSFORMERS)
    assert [row.verdict for row in found.rows] == ["FAILED", "ok", "ok", "ok"]
    assert found.failed[0].why == "RuntimeError: size mismatch for layer 7"
    assert verified.told(found.failed[0]) == f"stranger cannot read the folder: {found.failed[0].why}"
    assert "FAILED: RuntimeError: size mismatch for layer 7" in table_text(found)
    assert set(recorded(found)["readers"]) == {"transformers"}


def test_readers_that_are_not_asked(m3: Path, encoder: Encoder, capsys: Any) -> None:
    def never(*_: Any) -> Read:
        raise AssertionError

    absent = Reader("ghost", "no_such_package", always, never)
    other = replace(stranger(never, needs="another file"), applies=lambda folder, encoder: False)
    found = rows(m3, encoder, absent, other)
    assert [(row.verdict, row.why) for row in found.rows] == [
        ("not installed", "pip install no-such-package"),
        ("does not apply", "it needs another file"),
    ]
    assert not found.failed
    assert "noise" not in capsys.readouterr().err
    nothing = rows(m3, encoder, stranger(lambda *_: Read()))
    assert nothing.failed[0].why == "it gave no head that we have"


def test_a_reader_has_its_own_tolerance(m3: Path, encoder: Encoder) -> None:
    def read(_folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
        return Read(our_read(encoder, texts).dense + np.float32(1e-3))  # type: ignore[operator]

    assert rows(m3, encoder, stranger(read)).failed
    assert not rows(m3, encoder, stranger(read, tolerance=2e-3)).failed
    by_cosine = rows(m3, encoder, stranger(read, by_cosine=True))
    assert not by_cosine.failed
    assert "cosine 1.0000" in table_text(by_cosine)
    assert recorded(by_cosine)["readers"]["stranger"]["measure"] == "1 - cosine"
    turned = rows(m3, encoder, stranger(lambda *asked: Read(-read(*asked).dense), by_cosine=True))  # type: ignore[operator]
    assert verified.told(turned.failed[0]).startswith("what stranger (dense) gives has a cosine of -")


def test_special_tokens_that_a_text_writes_out(m3: Path, encoder: Encoder) -> None:
    """FlagEmbedding's M3 parts from us there; the others do not."""
    asked = ["heart <mask> pain", "<s> lung </s> cure", "bone", "東京"]
    m3_model = next(reader for reader in OF_THE_FOLDER if reader.name == "FlagEmbedding BGEM3FlagModel")
    assert not rows(m3, encoder, *OF_THE_FOLDER, asked=asked).failed
    assert rows(m3, encoder, replace(m3_model, plain_texts=False), asked=asked).failed


def test_a_text_without_tokens_is_left_out(tmp_path: Path, m3: Path, encoder: Encoder) -> None:
    backend = encoder.tokenizer.backend_tokenizer
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    found = rows(m3, encoder, stranger(lambda folder, encoder, texts: our_read(encoder, texts)), asked=["", "heart"])
    assert (found.texts, found.failed) == (1, [])
    assert found.left_out == ("1 of 2 texts left out: the tokenizer makes no token of them",)


# -- how differences are measured

vectors = arrays(np.float32, (3, 4), elements=st.floats(-2, 2, width=32))


@given(vectors, vectors)
def test_a_difference_is_symmetric_enough_and_zero_for_the_same(one: np.ndarray, other: np.ndarray) -> None:
    same = differences(Read(one, multi_vector=[*one]), Read(one, multi_vector=[*one]))
    assert same == {"dense": 0, "multi_vector": 0}
    found = differences(Read(one), Read(other))["dense"]
    largest = float(np.abs(one - other).max())
    assert found <= largest + 1e-6
    assert found >= largest / 2 - 1e-6  # numbers go up to 2


@given(vectors)
def test_cosines_do_not_see_length(one: np.ndarray) -> None:
    losses = cosine_losses(Read(3 * one, multi_vector=[*one[:, None]]), Read(one, multi_vector=[*one[:, None]]))
    assert max(losses.values()) <= 1e-6


@pytest.mark.parametrize("measure", [differences, cosine_losses])
def test_what_is_no_match(measure: Any) -> None:
    one = Read(np.ones((2, 3), np.float32), [{1: 0.5}, {}], [np.ones((1, 2)), np.ones((2, 2))])
    fewer = Read(one.dense[:1], one.sparse[:1], one.multi_vector[:1])  # type: ignore[index]
    assert set(measure(fewer, one).values()) == {float("inf")}
    nan = float("nan")
    broken = Read(one.dense * nan, [{1: nan}, {}], [np.ones((1, 2)) * nan, np.ones((2, 2))])  # type: ignore[operator]
    assert all(np.isnan(value) for value in measure(broken, one).values())
    other = Read(sparse=[{1: 0.5}, {7: 1.0}])
    assert measure(other, one)["sparse"] > 0.1
    assert measure(Read(), one) == {}


# -- the texts


def test_the_sample_is_of_all_kinds() -> None:
    assert len(SAMPLE) == len(set(SAMPLE)) == 100
    assert {"", " ", "\n", "a"} <= {*SAMPLE}
    assert sum(len(text.split()) > 512 for text in SAMPLE) >= 1
    letters = {ord(letter) >> 7 for text in SAMPLE for letter in text if letter.isalpha()}
    assert len(letters) > 25, "blocks of 128 letters: scripts"
    assert all(text.encode("utf-8") for text in SAMPLE[1:])


@pytest.mark.parametrize(("count", "own", "of_each"), [(10, 50, (5, 5)), (10, 2, (8, 2)), (300, 500, (100, 200))])
def test_half_of_the_texts_are_the_jobs_own(count: int, own: int, of_each: tuple[int, int]) -> None:
    found = texts_to_verify(count, [f"own {i}" for i in range(own)])
    mine = [text for text in found if text.startswith("own ")]
    assert (len(found) - len(mine), len(mine)) == of_each


def test_own_texts_are_drawn_by_hash(tmp_path: Path) -> None:
    folder = tiny.domain(tmp_path / "domain")
    found = own_texts(folder, ExportConfig(verify_texts=12))
    assert len(found) == 22  # of 10 test queries and 60 passages, 12 at most of each
    corpus = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(reversed(corpus)) + "\n")
    assert own_texts(folder, ExportConfig(verify_texts=12)) == found


def test_texts_of_a_file(tmp_path: Path) -> None:
    rows = tmp_path / "texts.jsonl"
    rows.write_text(json.dumps({"text": "two\nlines"}) + "\n" + json.dumps({"_id": "x", "text": ""}) + "\n")
    assert texts_in(rows) == ["two\nlines", ""]
    rows.write_text('{"title": "no text"}\n')
    with pytest.raises(UserError, match=r'texts.jsonl:1: the key "text" is missing'):
        texts_in(rows)
    plain = tmp_path / "texts.txt"
    plain.write_bytes("heart\nwörds".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8 \(byte 7\); save it as UTF-8"):
        texts_in(plain)
    plain.write_text(" \n\n")
    with pytest.raises(UserError, match="holds no text"):
        texts_in(plain)


def test_ours_are_one_at_a_time(encoder: Encoder) -> None:
    asked, told = ["heart pain", "", "the the the"], []
    found = our_read(encoder, asked, told.append)
    assert told == [1, 1, 1]
    assert found.sparse is not None
    assert found.multi_vector is not None
    assert found.sparse[1] == {}
    assert [len(each) for each in found.multi_vector] == [3, 1, 4]
    assert encoder.spec == Encoder.load_folder(Path(encoder.tokenizer.name_or_path), ModelConfig(
        query_max_length=128, passage_max_length=128)).spec  # fmt: skip
    taken = found.take([2, 0])
    assert [len(each) for each in taken.multi_vector or ()] == [4, 3]
    np.testing.assert_array_equal(taken.dense, np.asarray(found.dense)[[2, 0]])


def test_a_lost_head_and_a_lost_tokenizer_are_told(tmp_path, capsys):
    export = tiny.m3(tmp_path / "export")
    write_json(export / "bgetune.json", {"readers": {"x": {"heads": {"dense": 0.0, "sparse": 0.0}}}})
    (export / "sparse_linear.pt").unlink()
    assert main(["verify", str(export)]) == 2
    assert "was exported with a sparse head (bgetune.json), and their weights are gone" in only_error(capsys)
    bare = tiny.m3(tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    assert main(["verify", str(bare)]) == 2
    assert "holds no tokenizer" in only_error(capsys)


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    assert main(["verify", str(tmp_path / "a.txt")]) == 2
    assert "is a file; name the model's folder" in only_error(capsys)
