"""Each kind of source, the splits cut from it, and the stage `prepare` from start to end."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.config_data import SourceConfig
from bgetune.data import read_retrieval_set, source_path
from bgetune.errors import UserError
from bgetune.examples import read_examples
from data_prep.__main__ import main
from data_prep.neardup import near_duplicates
from data_prep.sources import load
from data_prep.split import fill
from tests.jobs import contents, write_jsonl

SHARED = Path(__file__).parent.parent / ".." / "shared" / "data"


def texts(count: int, start: int = 0) -> list[str]:
    """Queries of which no two are near-duplicates."""
    return [f"what does part{i} of item{i} do with thing{i}" for i in range(start, start + count)]


def write_beir(folder: Path, splits: dict[str, list[str]]) -> Path:
    """A set in which the i-th query of all is answered by the i-th passage."""
    queries = [text for of in splits.values() for text in of]
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"p{i}", "text": f"answer {i}"} for i in range(len(queries))])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)])
    (folder / "qrels").mkdir()
    i = 0
    for split, of in splits.items():
        rows = [f"q{j}\tp{j}\t1\n" for j in range(i, i + len(of))]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
        i += len(of)
    return folder


def refused(source: SourceConfig, guard: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        load(source, "data.domain", guard)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- splits


@given(st.lists(st.integers(1, 30), min_size=3, max_size=30))
def test_fill_gives_every_split_something_and_never_much_too_much(sizes):
    splits = fill(sizes, [("test", 0.2), ("dev", 0.1)])
    assert set(splits) == {"train", "dev", "test"}
    for name, share in (("test", 0.2), ("dev", 0.1)):
        of = [size for size, split in zip(sizes, splits, strict=True) if split == name]
        assert sum(of) <= share * sum(sizes) or len(of) == 1


def test_missing_splits_are_cut_from_train(tmp_path):
    source = SourceConfig(path=str(write_beir(tmp_path / "set", {"train": texts(100)})))
    qrels = load(source, "data.domain", guard=False).data.qrels
    assert {split: len(of) for split, of in qrels.items()} == {"train": 70, "dev": 10, "test": 20}
    assert load(source, "data.domain", guard=False).data.qrels == qrels
    other = SourceConfig(path=source.path, seed=1)
    assert load(other, "data.domain", guard=False).data.qrels != qrels


def test_splits_that_are_there_stay(tmp_path):
    source = SourceConfig(path=str(write_beir(tmp_path / "set", {"train": texts(50), "test": texts(5, 50)})))
    qrels = load(source, "data.domain", guard=False).data.qrels
    assert set(qrels["test"]) == {f"q{i}" for i in range(50, 55)}
    assert (len(qrels["train"]), len(qrels["dev"])) == (45, 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_what_belongs_together_is_on_one_side(tmp_path_factory, seed):
    draw = random.Random(seed)
    folder = tmp_path_factory.mktemp("set")
    rows = [
        {"query": f"{query} {draw.choice(['', 'now', 'please'])}", "pos": [f"answer {draw.randrange(30)}"]}
        for query in (draw.choice(texts(25)) for _ in range(40))
    ]
    source = SourceConfig(kind="flagembedding", path=str(write_jsonl(folder / "t.jsonl", rows)), seed=seed)
    try:
        data = load(source, "data.domain", guard=False).data
    except UserError as error:  # all queries may hang together
        assert "no query is left for the" in str(error)  # noqa: PT017
        return
    sides = [data.queries_of(split).texts for split in ("train", "dev", "test")]
    positives = [{p for of in data.qrels[split].values() for p in of} for split in ("train", "dev", "test")]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert near_duplicates(sides[i], sides[j]) == []
        assert not positives[i] & positives[j]


def test_max_pairs_keeps_a_stable_choice_and_the_whole_corpus(tmp_path):
    folder = write_beir(tmp_path / "set", {"train": texts(60), "test": texts(40, 60)})
    few = load(SourceConfig(path=str(folder), max_pairs=20), "data.domain", guard=False).data
    more = load(SourceConfig(path=str(folder), max_pairs=30), "data.domain", guard=False).data
    assert sum(len(of) for of in few.qrels.values()) == 20
    assert set(few.qrels["test"]) <= set(more.qrels["test"])
    assert len(few.corpus) == 100


def test_a_query_beyond_max_pairs_does_not_stop_the_choice(tmp_path):
    """One query with ten judgements and 30 with one: wherever the hash puts the large one, the others come in."""
    rows = [{"query": text, "pos": [f"yes {text}"]} for text in texts(30)]
    rows.append({"query": "the large one", "pos": [f"large {i}" for i in range(10)]})
    path = str(write_jsonl(tmp_path / "t.jsonl", rows))
    for seed in range(5):
        source = SourceConfig(kind="flagembedding", path=path, max_pairs=9, seed=seed)
        qrels = load(source, "data.domain", guard=False).data.qrels
        assert sum(len(of) for of in qrels.values()) == 9
    write_jsonl(tmp_path / "t.jsonl", rows[-1:])
    line = refused(SourceConfig(kind="flagembedding", path=path, max_pairs=9))
    assert line == "data.domain.max_pairs: 9 leaves no query; the one with the fewest judgements has 10"


def test_a_guard_is_its_test_split(tmp_path):
    given = write_beir(tmp_path / "a", {"train": texts(20), "test": texts(5, 20)})
    data = load(SourceConfig(path=str(given)), "data.guards.g", guard=True).data
    assert set(data.qrels) == {"test"}
    assert data.queries.ids == [f"q{i}" for i in range(20, 25)]
    cut = write_beir(tmp_path / "b", {"train": texts(20)})
    assert len(load(SourceConfig(path=str(cut)), "data.guards.g", guard=True).data.queries) == 4
    only = write_beir(tmp_path / "c", {"test": texts(3)})
    assert len(load(SourceConfig(path=str(only)), "data.guards.g", guard=True).data.queries) == 3


@pytest.mark.parametrize(
    ("splits", "guard", "message"),
    [
        ({"test": texts(5)}, False, "has no train, dev split, and there is no train split to cut it from"),
        ({"dev": texts(5)}, True, "has no test split, and there is no train split to cut it from"),
        ({"train": texts(2)}, False, "no query is left for the test split"),
    ],
)
def test_a_split_that_cannot_be_made_is_named(tmp_path, splits, guard, message):
    source = SourceConfig(path=str(write_beir(tmp_path / "set", splits)))
    line = refused(source, guard)
    assert line.startswith("data.domain: ")
    assert message in line


def test_a_missing_folder_is_named(tmp_path):
    assert "data.domain.path: nowhere does not exist" in refused(SourceConfig(path="nowhere"))
    (tmp_path / "file").touch()
    assert "is a file; kind beir needs a folder" in refused(SourceConfig(path=str(tmp_path / "file")))


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data")
def test_real_public_data():
    data = load(SourceConfig(path=str(SHARED / "scifact")), "data.domain", guard=False).data
    assert {split: len(of) for split, of in data.qrels.items()} == {"train": 663, "dev": 74, "test": 300}


# -- FlagEmbedding's JSONL


def test_flagembedding_texts_become_a_corpus(tmp_path):
    rows = [{"query": text, "pos": [f"yes {text}"], "neg": ["no", f"never {text}"]} for text in texts(30)]
    rows[0] |= {"prompt": "Find: ", "pos_scores": [0.9], "neg_scores": [0.1, 0.2], "type": "ignored"}
    rows.append({"query": rows[0]["query"], "pos": ["also yes"], "neg": [f"yes {texts(1)[0]}", "no"]})
    write_jsonl(tmp_path / "set" / "b.jsonl", rows[20:])
    write_jsonl(tmp_path / "set" / "a.jsonl", rows[:20])
    source = SourceConfig(kind="flagembedding", path=str(tmp_path / "set"))
    loaded = load(source, "data.domain", guard=False)
    data, examples = loaded.data, loaded.given
    assert len(data.queries) == 30
    assert len(data.corpus) == 30 + 1 + 30 + 1
    assert all(passage_id[0] == "d" and len(passage_id) == 17 for passage_id in data.corpus.ids)
    assert sum(len(of) for of in data.qrels.values()) == 30
    assert examples is not None
    assert [example.query_id for example in examples] == list(data.qrels["train"])
    text_of = dict(zip(data.corpus.ids, data.corpus.texts, strict=True))
    for example in examples:
        assert [text_of[i] for i in example.pos_ids or []] == example.pos
        assert [text_of[i] for i in example.neg_ids or []] == example.neg
        assert not set(example.pos) & set(example.neg)


def test_flagembedding_lines_of_one_query_are_merged(tmp_path):
    rows = [{"query": text, "pos": [f"yes {text}"]} for text in texts(30)]
    for row in rows:
        row |= {"neg": ["no", "never"], "neg_scores": [0.1, 0.2], "prompt": "Find: "}
    rows += [{"query": row["query"], "pos": ["never"], "neg": ["perhaps"], "neg_scores": [0.3]} for row in rows[:1]]
    source = SourceConfig(kind="flagembedding", path=str(write_jsonl(tmp_path / "t.jsonl", rows)))
    # the first query must be in train to be seen
    seeds = (load(SourceConfig(**{**source.__dict__, "seed": seed}), "data.domain", False) for seed in range(20))
    merged = next(e for of in seeds for e in of.given or [] if e.query == texts(1)[0])
    assert merged.pos == [f"yes {merged.query}", "never"]
    assert (merged.neg, merged.neg_scores, merged.prompt) == (["no", "perhaps"], [0.1, 0.3], "Find: ")


def test_flagembedding_ids_are_kept(tmp_path):
    rows = [
        {"query": text, "pos": [f"yes {i}"], "query_id": f"Q{i}", "pos_ids": [f"P{i}"]}
        for i, text in enumerate(texts(30))
    ]
    source = SourceConfig(kind="flagembedding", path=str(write_jsonl(tmp_path / "t.jsonl", rows)))
    loaded = load(source, "data.domain", guard=False)
    assert loaded.given is None
    assert loaded.data.corpus.ids == [f"P{i}" for i in range(30)]
    assert loaded.data.queries.ids == [f"Q{i}" for i in range(30)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "x", "pos": []}, 't.jsonl:2: "pos" is missing or empty'),
        ({"query": "x", "pos": ["other"], "pos_ids": ["P"]}, 't.jsonl:2: the id "P" has another text at'),
        ({"query": "x", "pos": ["other"], "pos_ids": ["a b"]}, "t.jsonl:2: the id 'a b' is empty or has white space"),
    ],
)
def test_mistakes_in_flagembedding_lines(tmp_path, row, message):
    path = write_jsonl(tmp_path / "t.jsonl", [{"query": "q", "pos": ["yes"], "pos_ids": ["P"]}, row])
    assert message in refused(SourceConfig(kind="flagembedding", path=str(path)))


def test_missing_flagembedding_files_are_named(tmp_path):
    assert "data.domain.path: no.jsonl does not exist" in refused(SourceConfig(kind="flagembedding", path="no.jsonl"))
    assert "holds no *.jsonl file" in refused(SourceConfig(kind="flagembedding", path=str(tmp_path)))


# -- datasets

COLUMNS = {"query": "question", "positive": "answer"}


def dataset(path: Path, **columns: str) -> SourceConfig:
    return SourceConfig(kind="dataset", path=str(path), columns={**COLUMNS, **columns})


def write_table(path: Path, rows: list[dict]) -> Path:
    import pandas

    frame = pandas.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        write_jsonl(path, rows)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_tables_are_read_with_a_column_mapping(tmp_path, suffix):
    rows = [{"question": text, "answer": f"yes {text}", "wrong": "no", "name": "T"} for text in texts(20)]
    loaded = load(
        dataset(write_table(tmp_path / f"t{suffix}", rows), negative="wrong", title="name"), "data.domain", False
    )
    assert len(loaded.data.queries) == 20
    assert loaded.data.corpus.full_texts()[:2] == [f"T yes {texts(1)[0]}", "no"]
    assert loaded.given is not None
    assert loaded.given[0].neg == ["no"]
    assert loaded.given[0].pos[0].startswith("T yes what")


def test_lists_of_texts_and_folders_of_files(tmp_path):
    rows = [{"question": text, "answer": [f"yes {text}", f"also {text}"], "wrong": None} for text in texts(20)]
    write_jsonl(tmp_path / "a.jsonl", rows[:10])
    write_jsonl(tmp_path / "b.jsonl", rows[10:])
    loaded = load(dataset(tmp_path, negative="wrong"), "data.domain", guard=False)
    assert len(loaded.data.corpus) == 40
    assert all(len(of) == 2 for of in loaded.data.qrels["train"].values())
    assert loaded.given is None


def write_splits(folder: Path) -> Path:
    """As `hf download --local-dir` leaves a dataset: files of two splits under data/, its own notes in .cache."""
    (folder / "data").mkdir(parents=True)
    for split, start in (("train", 0), ("test", 20)):
        rows = [{"question": text, "answer": f"yes {text}"} for text in texts(20, start)]
        write_table(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    write_jsonl(folder / ".cache" / "huggingface" / "note.json", [{"etag": 1}])
    write_jsonl(folder / "dataset_infos.json", [{"default": {}}])
    return folder


@pytest.mark.parametrize(("split", "start", "count"), [("train", 0, 20), ("test", 20, 20), ("test[:15]", 20, 15)])
def test_a_folder_gives_the_rows_of_its_split_only(tmp_path, split, start, count):
    source = replace(dataset(write_splits(tmp_path / "set")), split=split)
    assert load(source, "data.domain", guard=False).data.queries.texts == texts(count, start)


@pytest.mark.parametrize("split", ["dev", "test[:1", ""])
def test_a_split_that_is_not_there_is_named(tmp_path, split):
    folder = write_splits(tmp_path / "set")
    line = refused(replace(dataset(folder), split=split))
    assert line == f"data.domain.split: {folder} has no split {split!r}; it has train, test"


def test_the_readme_of_a_folder_names_its_subsets(tmp_path):
    folder = write_splits(tmp_path / "set")
    write_table(folder / "other.parquet", [{"question": text, "answer": f"no {text}"} for text in texts(10, 40)])
    write_jsonl(folder / "figures.json", [{"rows": 50}])
    configs = [{"config_name": "a", "data_files": "data/test*"}, {"config_name": "b", "data_files": "other.parquet"}]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    for subset, expected in (("a", texts(20, 20)), ("b", texts(10, 40))):
        source = replace(dataset(folder), subset=subset)
        assert load(source, "data.domain", guard=False).data.queries.texts == expected
    for missing in ("c", None):
        line = refused(replace(dataset(folder), subset=missing))
        assert line.startswith(f"data.domain.subset: {missing!r} will not do for {folder}: ")
        assert "['a', 'b']" in line


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_numbers_in_a_csv_file_are_texts(tmp_path, suffix, whole_folder):
    rows = [{"question": text, "answer": f"0{i}", "wrong": "7", "rank": i} for i, text in enumerate(texts(20))]
    rows[3]["wrong"] = ""
    path = write_table(tmp_path / f"train{suffix}", rows)
    loaded = load(dataset(tmp_path if whole_folder else path, negative="wrong"), "data.domain", guard=False)
    assert {"00", "01", "019", "7"} == {"00", "01", "019", "7"} & set(loaded.data.corpus.texts)
    assert len(loaded.data.corpus) == 21


@pytest.mark.parametrize("kind", ["beir", "flagembedding", "dataset"])
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_beir(tmp_path / "beir", {"train": texts(20)})
    for name, (query, positive) in {"flagembedding": ("query", "pos"), "dataset": ("question", "answer")}.items():
        write_jsonl(tmp_path / name / "t.jsonl", [{query: text, positive: [f"yes {text}"]} for text in texts(20)])
    source = SourceConfig(kind=kind, path=f"~/{kind}", columns=COLUMNS)
    assert source_path(source) == tmp_path / kind
    assert len(load(source, "data.domain", guard=False).data.queries) == 20


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"positive": "anwser"}, ".columns: {path} has no column 'anwser'; did you mean \"answer\"?"),
        ({"positive": "zzz"}, ".columns: {path} has no column 'zzz'; it has question, answer"),
        ({"negativ": "answer"}, ".columns: 'negativ' is none of our names; did you mean \"negative\"?"),
    ],
)
def test_unknown_columns_are_named(tmp_path, columns, message):
    path = write_table(tmp_path / "t.csv", [{"question": "q", "answer": "a"}])
    assert refused(dataset(path, **columns)) == "data.domain" + message.format(path=path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": " ", "answer": ["a"]}, 'row 2: "question" is empty'),
        ({"question": "q", "answer": ["a", ""]}, 'row 2: "answer" is empty'),
        ({"question": "q", "answer": []}, 'row 2: "answer" is an empty list; every query needs a positive'),
        ({"question": "q", "answer": None}, 'row 2: "answer" is empty'),
    ],
)
def test_empty_texts_are_named_with_their_row(tmp_path, row, message):
    path = write_jsonl(tmp_path / "t.jsonl", [{"question": "q", "answer": ["a"]}, row])
    assert refused(dataset(path)).startswith(f"{path}: {message}")


def test_broken_and_missing_files_are_named(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_text("no")
    assert f"data.domain.path: {tmp_path}/t.parquet cannot be read as parquet: " in refused(
        dataset(tmp_path / "t.parquet")
    )
    (tmp_path / "u.jsonl").write_text('{"question": \n')
    assert "cannot be read as json: " in refused(dataset(tmp_path / "u.jsonl"))
    assert "holds files of several kinds (.jsonl, .parquet)" in refused(dataset(tmp_path))
    assert "does not exist; name a file, a folder of files or a Hub id" in refused(dataset(tmp_path / "none.csv"))
    (tmp_path / "empty").mkdir()
    assert "is or holds no .parquet, .csv" in refused(dataset(tmp_path / "empty"))


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'org/name' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    line = refused(SourceConfig(kind="dataset", path="org/name", columns=COLUMNS))
    assert "data.domain.path: 'org/name' is no file here, and the Hub cannot be reached" in line
    assert "hf download org/name --repo-type dataset" in line


# -- the stage


def job(tmp_path: Path, data: dict) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"output": str(tmp_path / "run"), "data": data}))
    return ["prepare", "--config", str(path)]


def test_prepare_writes_every_set_and_the_same_bytes_twice(tmp_path, capsys):
    rows = [{"query": text, "pos": [f"yes {text}"], "neg": ["no"]} for text in texts(30)]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    guard = write_beir(tmp_path / "guard", {"test": texts(5, 100)})
    data = {
        "name": "toy",
        "domain": {"kind": "flagembedding", "path": str(path)},
        "guards": {"public": {"path": str(guard)}},
    }
    words = job(tmp_path, data)
    assert main(words) == 0
    first = contents(tmp_path / "run" / "data")
    assert set(first) == {
        *(f"toy/{name}" for name in ("corpus.jsonl", "queries.jsonl", "given.jsonl")),
        *(f"toy/qrels/{split}.tsv" for split in ("train", "dev", "test")),
        *(f"public/{name}" for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")),
    }
    toy = read_retrieval_set(tmp_path / "run" / "data" / "toy")
    given = read_examples(tmp_path / "run" / "data" / "toy" / "given.jsonl")
    assert {example.query_id for example in given} == set(toy.qrels["train"])
    assert main([*words, "--force"]) == 0
    assert contents(tmp_path / "run" / "data") == first


def test_prepare_refuses_a_guard_that_training_sees(tmp_path, capsys):
    domain = write_beir(tmp_path / "domain", {"train": texts(50)})
    guard = write_beir(tmp_path / "guard", {"test": [*texts(5, 100), *(text.upper() for text in texts(50))]})
    data = {"domain": {"path": str(domain)}, "guards": {"public": {"path": str(guard)}}}
    assert main(job(tmp_path, data)) == 2
    error = capsys.readouterr().err
    assert "data.leakage: 35 train queries are known from public (35)" in error
    assert not (tmp_path / "run" / "manifests" / "prepare.json").exists()


def test_prepare_leaves_what_training_sees_out_of_a_harvested_guard(tmp_path, monkeypatch):
    docs = texts(40)
    for name, of in (("bgetune_dom", docs), ("bgetune_grd", docs[20:] + texts(5, 100))):
        (tmp_path / name).mkdir()
        for i, doc in enumerate(of):
            code = f'def f{i}():\n    """{doc}"""\n    value = {name}\n    value += "{doc}"\n    return value\n'
            (tmp_path / name / f"m{i}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = {
        "domain": {"kind": "harvest", "packages": ["bgetune_dom"]},
        "guards": {"code": {"kind": "harvest", "packages": ["bgetune_grd"]}},
    }
    assert main(job(tmp_path, data)) == 0
    domain = read_retrieval_set(tmp_path / "run" / "data" / "domain")
    guard = read_retrieval_set(tmp_path / "run" / "data" / "code")
    seen = {text for split in ("train", "dev") for text in domain.queries_of(split).texts}
    assert set(guard.queries.texts) == set(docs[20:] + texts(5, 100)) - seen


def test_prepare_names_a_mistake_in_the_data_and_leaves_nothing(tmp_path, capsys):
    folder = write_beir(tmp_path / "set", {"train": texts(20)})
    with open(folder / "corpus.jsonl", "a") as file:
        file.write("{broken\n")
    assert main(job(tmp_path, {"domain": {"path": str(folder)}})) == 2
    assert "corpus.jsonl:21: not valid JSON" in capsys.readouterr().err
    assert not (tmp_path / "run" / "data").exists()
