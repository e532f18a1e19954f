"""The model card: true to the report in every kind of run, valid for the Hub; its code gives our scores."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from bgetune.config import Head, JobConfig, LoraConfig, ModelConfig, TrainConfig
from bgetune.config_data import SourceConfig
from bgetune.config_export import FORM_FOLDERS, ExportConfig, Form
from bgetune.config_io import load_job
from bgetune.encoder import Encoder
from bgetune.export.card import model_card, write_card
from bgetune.export.card_licence import base_licence
from bgetune.export.card_measured import Measured, measured_in
from bgetune.export.card_named import PATH_OR_ID, named_for
from bgetune.export.forms import write_form
from bgetune.export.onnx import usage as onnx_usage
from bgetune.export.plot import PLOT_FILE, gains_plot
from bgetune.files import write_json, write_text
from bgetune.manifest import weights_files_hash
from eval.report import to_json
from tests import jobs, tiny
from tests.report_example import example_report

ALL: tuple[Head, ...] = ("dense", "sparse", "multi_vector")
QUESTION, PASSAGE = "what does heart pain", "the heart drug and the lung cure pain 1"
STATS = {"queries": 1234, "negatives": 5678}
SPLITS = {"train": 1400, "dev": 150, "test": 300}
GUARDS = ("scifact", "nfcorpus")


class Export(NamedTuple):
    """A folder with its card, as the export stage writes them."""

    folder: Path
    config: JobConfig
    encoder: Encoder
    measured: Measured

    @property
    def card(self) -> str:
        return model_card(self.config, self.encoder, self.measured)

    @property
    def words(self) -> str:
        """The card without its metadata and without the configuration at its end."""
        return re.sub(r"(?s)```yaml.*?```", "", self.card.split("---\n", 2)[2])

    @property
    def front(self) -> dict[str, Any]:
        return yaml.safe_load(self.card.split("---\n")[1])

    def again(self, **changes: Any) -> Export:
        """The same with another configuration or other findings."""
        ours = {key: value for key, value in changes.items() if key in Measured.__dataclass_fields__}
        rest = {key: value for key, value in changes.items() if key not in ours}
        return self._replace(config=replace(self.config, **rest), measured=replace(self.measured, **ours))


def export(
    folder: Path,
    model: Path,
    settings: dict[str, Any] | None = None,
    sets: int = 3,
    forms: tuple[Form, ...] = (),
    without: Sequence[str] = (),
) -> Export:
    """An export of a tiny model with a made-up report of that many sets, as if it had been job `medquad`."""
    domain = str(tiny.domain(folder / "domain"))
    source = {"kind": "beir", "path": domain}
    data = {"name": "medquad", "domain": source, "guards": dict.fromkeys(GUARDS[: sets - 1], source)}
    job = tiny.config(folder, model={"name_or_path": str(model), **(settings or {})}, data=data)
    config = load_job(tiny.write_config(folder / "job.yaml", job))
    encoder = Encoder.load_folder(model, config.model)
    main = folder / "export"
    encoder.save(main)
    report = example_report(systems=2, sets=sets, heads=encoder.heads, without=without)
    measured = Measured(report, STATS, "c0ffee", splits=SPLITS, forms=forms)
    write_card(main, config, encoder, measured)
    for form in forms:
        beside = folder / FORM_FOLDERS[form]
        beside.mkdir()
        write_form(form, beside, main, encoder, config, model)
    return Export(main, config, encoder, measured)


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Three heads, with both of sentence-transformers' other forms beside it."""
    folder = tmp_path_factory.mktemp("m3")
    told = {"query_instruction": "for the ", "query_max_length": 16, "passage_max_length": 32}
    return export(folder, tiny.m3(folder / "base"), told, forms=("multi_vector_encoder", "sparse_encoder"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The dense head alone, on the domain alone."""
    folder = tmp_path_factory.mktemp("dense")
    return export(folder, tiny.model(folder / "base"), sets=1, without=("probes", "merging", "hybrid_weights"))


# -- the code in it


def snippets(one: Export) -> dict[str, str]:
    """The Python under each heading, by the class that it uses."""
    found = re.findall(r"```python\n(.*?)```", one.card, re.DOTALL)
    named = {match[1]: code for code in found if (match := re.search(r"import (\w+)(?:, AutoTokenizer)?\n\n", code))}
    assert len(named) == len(found)
    return named


def run(snippet: str, path: Path, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """The numbers it prints, with words that the tiny model knows."""
    for old, new in {PATH_OR_ID: str(path), "a question": QUESTION, "a passage": PASSAGE}.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    capsys.readouterr()
    exec(compile(snippet, "card", "exec"), {})
    return [float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]


def our_scores(one: Export) -> list[float]:
    """Dense, sparse, multi-vector and hybrid score of the question and the passage, in plain numpy."""
    encoder = one.encoder.eval()
    found = []
    for text, role in ((QUESTION, "query"), (PASSAGE, "passage")):
        with torch.no_grad():
            found.append(encoder(*encoder.pad(encoder.tokenize([text], role)[0])))
    query, passage = found
    assert query.dense is not None
    assert passage.dense is not None
    scores = [float(query.dense[0] @ passage.dense[0])]
    if one.encoder.heads == ALL:
        weights = [dict(zip(each.sparse.ids.tolist(), each.sparse.weights.tolist(), strict=True)) for each in found]
        scores.append(sum(weight * weights[1].get(token, 0.0) for token, weight in weights[0].items()))
        scores.append(float((query.multi_vector.vectors @ passage.multi_vector.vectors.T).amax(1).mean()))
        scores.append(scores[0] + 0.3 * scores[1] + scores[2])
    return scores


def test_every_snippet_of_three_heads_gives_our_scores(m3: Export, capsys: pytest.CaptureFixture[str]) -> None:
    found, ours = snippets(m3), our_scores(m3)
    assert abs(ours[1]) > 0.01
    assert list(found) == [
        "SentenceTransformer", "FlagModel", "BGEM3FlagModel", "AutoModel", "MultiVectorEncoder", "SparseEncoder",
    ]  # fmt: skip
    for name in ("SentenceTransformer", "AutoModel"):
        assert run(found[name], m3.folder, capsys) == pytest.approx(ours[:1], abs=1e-4)
    assert run(found["FlagModel"], m3.folder, capsys) == pytest.approx(ours[:1], abs=1e-5)
    assert run(found["BGEM3FlagModel"], m3.folder, capsys) == pytest.approx(ours, abs=1e-5)
    # the path of the main folder leads to the folders beside it
    assert run(found["MultiVectorEncoder"], m3.folder, capsys)[:1] == pytest.approx([ours[2]], abs=1e-4)
    assert run(found["SparseEncoder"], m3.folder, capsys)[0] == pytest.approx(ours[1], abs=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_the_m3_snippet_of_narrow_token_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pooling: str
) -> None:
    base = tiny.m3(tmp_path / "base")
    layer = torch.load(base / "colbert_linear.pt")
    torch.save({name: tensor[:8] for name, tensor in layer.items()}, base / "colbert_linear.pt")
    one = export(tmp_path, base, {"pooling": pooling})
    ours = our_scores(one)
    snippet = snippets(one)["BGEM3FlagModel"]
    assert "colbert_dim=8," in snippet
    printed = run(snippet, one.folder, capsys)
    assert printed == pytest.approx(ours if pooling == "cls" else ours[1:3], abs=1e-5)
    assert ("so not this model's dense vectors" in one.words) == (pooling == "max")


def test_the_card_of_an_export_with_onnx(m3: Export) -> None:
    """The snippet itself is run by tests/test_onnx.py, which has a graph."""
    one = m3.again(export=ExportConfig(onnx=("fp32", "int8")))
    assert "`onnx/embeddings.onnx` (fp32) and `onnx/embeddings_int8.onnx` (int8)." in one.words
    assert "`hf download org/x --local-dir PATH`" in named_for(one.card, "org/x", {})
    assert onnx_usage(one.encoder) in one.card
    eight = snippets(m3.again(export=ExportConfig(onnx=("int8",))))["Tokenizer"]
    assert "PATH/onnx/embeddings_int8.onnx" in eight
    assert "embeddings.onnx" not in eight


def euclidean(query: np.ndarray, passage: np.ndarray) -> float:
    return -float(np.linalg.norm(query - passage))


def cosine(query: np.ndarray, passage: np.ndarray) -> float:
    return float(query @ passage / np.linalg.norm(query) / np.linalg.norm(passage))


@pytest.mark.parametrize(
    ("settings", "score"),
    [
        ({"pooling": "mean", "normalize": False, "similarity": "euclidean"}, euclidean),
        ({"pooling": "max", "normalize": False, "passage_instruction": "the "}, cosine),
        ({"pooling": "mean", "normalize": False, "similarity": "dot", "query_instruction": "what "}, np.dot),
    ],
    ids=["euclidean", "max", "dot"],
)
def test_snippets_of_other_poolings_and_similarities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], score: Callable[..., float]
) -> None:
    one = export(tmp_path, tiny.model(tmp_path / "base"), settings, sets=1)
    with torch.no_grad():
        query, passage = (
            one.encoder.eval()(*one.encoder.pad(one.encoder.tokenize([text], role)[0])).dense[0].numpy()
            for text, role in ((QUESTION, "query"), (PASSAGE, "passage"))
        )
    expected = [float(score(query, passage))]
    found = snippets(one)
    flag = {"FlagModel"} if settings["pooling"] == "mean" else set()  # it knows no pooling by max
    assert set(found) == {"SentenceTransformer", "AutoModel"} | flag
    for snippet in found.values():
        assert run(snippet, one.folder, capsys) == pytest.approx(expected, abs=2e-4)
    assert ("docker run" in one.card) == bool(flag)


def test_a_pushed_card_names_its_repository(m3: Export) -> None:
    assert "`PATH_OR_ID` stands for the path of this folder." in m3.card
    card = named_for(m3.card, "org/clinic-bge", {name: name.removeprefix("export-") for name in FORM_FOLDERS.values()})
    assert PATH_OR_ID not in card
    assert "stands for the path" not in card
    assert "This is the branch" not in card
    assert 'pass `revision="v1"`' in named_for(m3.card, "org/clinic-bge", {}, "v1")
    assert 'SentenceTransformer("org/clinic-bge")' in card
    assert 'MultiVectorEncoder("org/clinic-bge", revision="multi-vector")' in card
    assert "vllm serve org/clinic-bge" in card


# -- metadata


def test_the_metadata_is_what_the_hub_reads(m3: Export) -> None:
    data = ModelCard(m3.card, ignore_metadata_errors=False).data
    assert data.model_name == "base-medquad"
    assert (data.library_name, data.pipeline_tag, data.language) == (
        "sentence-transformers", "sentence-similarity", ["en"],
    )  # fmt: skip
    assert {"dense", "sparse", "multi-vector", "sparse-encoder", "text-embeddings-inference"} <= set(data.tags)
    assert "dataset_size:1234" in data.tags
    report, ours = m3.measured.report, "tuned"
    for name, found in report["sets"].items():
        results = [one for one in data.eval_results if one.dataset_name == name]
        assert {one.task_type for one in results} == {"retrieval"}
        first = [one for one in results if one.metric_name.endswith("(hybrid)")]
        assert results[: len(first)] == first
        expected = {metric.replace("@", "_at_"): value for metric, value in found["retrievers"]["hybrid"][ours].items()}
        assert {one.metric_type: one.metric_value for one in first} == pytest.approx(expected, abs=5e-5)
        others = {one.metric_name for one in results[len(first) :]}
        assert others == {f"nDCG@10 ({name})" for name in found["retrievers"] if name not in ("bm25", "hybrid")}
    probes = {one.dataset_name: one for one in data.eval_results if one.task_type != "retrieval"}
    for probe in report["probes"]:
        assert probes[probe["name"]].metric_value == pytest.approx(probe["values"][ours], abs=5e-5)
    # and the other way round nothing is lost
    assert ModelCard(f"---\n{data.to_yaml()}\n---\n").data.to_dict() == data.to_dict()


def test_a_card_has_no_results_of_others(m3: Export) -> None:
    shown = yaml.safe_dump(m3.front["model-index"])
    assert "bm25" not in shown
    assert "verified" not in shown


def test_base_model_relation_and_datasets(m3: Export, tmp_path: Path) -> None:
    assert not {"base_model", "base_model_relation", "datasets"} & set(m3.front)  # a folder's name is no Hub id
    merged = {"allowed_loss": 0.01, "points": [{"share": 1.0, "chosen": False}, {"share": 0.25, "chosen": True}]}
    hub = replace(m3.config.model, name_or_path="BAAI/bge-m3")
    data = replace(m3.config.data, domain=SourceConfig("dataset", "org/clinic", subset="en", split="train"))
    front = as_hub(m3, hub, data, {**m3.measured.report, "merging": merged})
    assert (front["base_model"], front["base_model_relation"]) == ("BAAI/bge-m3", "merge")
    assert front["datasets"] == ["org/clinic"]
    first, second, *_ = front["model-index"][0]["results"]
    assert first["dataset"] == {"type": "org/clinic", "name": "medquad", "split": "train", "config": "en"}
    assert second["dataset"] == {"type": "scifact", "name": "scifact", "split": "test"}
    report = {key: value for key, value in m3.measured.report.items() if key != "merging"}
    assert as_hub(m3, hub, data, report)["base_model_relation"] == "finetune"
    report["systems"] = {name: {**told, "weights": "same"} for name, told in report["systems"].items()}
    assert "base_model_relation" not in as_hub(m3, hub, data, report)


def as_hub(one: Export, model: ModelConfig, data: Any, report: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an export of a model that is on the Hub, which is not asked."""
    found = one.again(model=model, data=data, report=report)
    assert ("fine-tuned for retrieval" in found.card) != ("the weights of [BAAI/bge-m3](https://hugg" in found.card)
    return found.front


@pytest.mark.parametrize(("told", "expected"), [("en", ["en"]), ("en, de", ["en", "de"]), ("no", ["no"])])
def test_languages(m3: Export, told: str, expected: list[str]) -> None:
    assert m3.again(export=ExportConfig(language=told)).front["language"] == expected


# -- the licence


APACHE = "                 Apache License\n           Version 2.0, January 2004\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": "---\nlicense: mit\n---\n# x"}, {"license": "mit"}),
        ({"README.md": "\ufeff---\r\nlicense: mit\r\ntags:\r\n- x\r\n---\r\n"}, {"license": "mit"}),
        ({"README.md": "---\nlicense: [mit, apache-2.0]\n---\n"}, {"license": ["mit", "apache-2.0"]}),
        ({"README.md": "# no metadata", "LICENSE": APACHE}, {"license": "apache-2.0"}),
        ({"README.md": "---\nlicense: unknown\n---\n", "LICENSE.txt": APACHE}, {"license": "apache-2.0"}),
        ({"README.md": "---\n: [broken\n---\n"}, {"license": "unknown"}),
        ({"README.md": "---\nlicense: 3\n---\n"}, {"license": "unknown"}),
        ({}, {"license": "unknown"}),
        (
            {"LICENCE": "# Clinic Terms of Use (v2)\n\nYou may."},
            {"license": "other", "license_name": "clinic-terms-of-use-v2", "license_link": "LICENCE"},
        ),
        (
            {"README.md": "---\nlicense: other\nlicense_name: gemma\nlicense_link: https://ai.google.dev/x\n---\n"},
            {"license": "other", "license_name": "gemma", "license_link": "https://ai.google.dev/x"},
        ),
        (
            {"README.md": "---\nlicense: other\nlicense_name: own\nlicense_link: TERMS.md\n---\n"},
            {
                "license": "other",
                "license_name": "own",
                "license_link": "https://huggingface.co/org/base/blob/main/TERMS.md",
            },
        ),
    ],
    ids=["card", "windows", "several", "file", "card-unknown", "broken", "number", "none", "own-file", "other", "link"],
)
def test_the_licence_of_the_base_model(tmp_path: Path, files: dict[str, str], expected: dict[str, Any]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    assert base_licence(tmp_path, ModelConfig("org/base")) == expected


def test_the_licence_is_passed_on_with_its_files(tmp_path: Path) -> None:
    base = tiny.model(tmp_path / "base")
    for name, text in {"README.md": "base's", "LICENSE": APACHE, "NOTICE.txt": "by us", "note.txt": "no"}.items():
        (base / name).write_text(text)
    job = jobs.prepared(tmp_path, model={"name_or_path": str(base)})
    encoder = Encoder.load(job.config.model)
    encoder.save(job.run.best)
    write_text(job.run.report / "report.json", to_json(example_report(systems=2, sets=1, heads=["dense"])))
    write_json(job.run.examples.parent / "stats.json", STATS)
    found = measured_in(job.run, job.config, encoder)
    assert found.splits == {"train": 40, "dev": 10, "test": 10}
    assert (found.licence, found.started) == ({"license": "apache-2.0"}, ())
    assert found.weights_hash == weights_files_hash(job.run.best)
    own = replace(job.config, export=ExportConfig(license="cc-by-4.0"))
    assert measured_in(job.run, own, encoder).licence == {"license": "cc-by-4.0"}
    config = replace(job.config, data=replace(job.config.data, name="medquad"))
    (tmp_path / "out").mkdir()
    write_card(tmp_path / "out", config, encoder, found)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "LICENSE",
        "NOTICE.txt",
        "README.md",
        PLOT_FILE,
    ]
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()


# -- what it says


def test_the_card_says_what_was_measured_and_how(m3: Export) -> None:
    report, text = m3.measured.report, m3.words
    found = report["sets"]["scifact"]
    gain, scores = found["gains"]["hybrid"]["tuned"]["ndcg@10"], found["retrievers"]["hybrid"]
    low, high = gain["ci95"]
    row = f"| **hybrid** | {scores['base']['ndcg@10']:.4f} | {scores['tuned']['ndcg@10']:.4f} | {gain['abs']:+.4f} | "
    assert f"{row}{low:+.4f} to {high:+.4f} | {gain['p_holm']:.4f} |" in text
    assert f"| bm25 | {found['retrievers']['bm25']['any']['ndcg@10']:.4f} |  |  |  |  |" in text
    for line in report["headline"]:
        assert f"\n- {line}\n" in text
    for name, told in report["sets"].items():
        assert f"**{name}** ({told['role']}): {told['n_queries']} queries" in text
        assert f"`{told['data_hash']}` |" in text
    domain = report["sets"]["medquad"]
    assert f"| medquad | domain | {domain['n_docs']:,} | 1,400 | 150 | {domain['n_queries']} |" in text
    assert f"| scifact | guard | {found['n_docs']:,} |  |  | {found['n_queries']} |" in text
    for probe in report["probes"]:
        shown = f"| {probe['name']} | {probe['metric']} | {probe['n']:,} | {probe['values']['base']:.4f} |"
        assert f"{shown} {probe['values']['tuned']:.4f} |" in text
    assert "1,234 queries with 5,678 mined hard negatives" in text
    assert "corrected for the number of sets by Holm's method. Training saw no guard." in text
    assert "SHA-256 of the weights measured above: `c0ffee`." in text
    assert f"]({PLOT_FILE})" in text
    assert "left out" not in text
    found["left_out"] = 12
    assert "12 test queries of scifact decided the merge and are left out." in m3.words
    del found["left_out"]
    # the configuration in it is the very job
    told = re.search(r"```yaml\n(.*?)```", m3.card, re.DOTALL)
    assert told is not None
    path = m3.folder.parent / "from_card.yaml"
    path.write_text(told[1])
    assert load_job(path) == m3.config


def test_the_configuration_in_it_holds_no_password(m3: Export) -> None:
    synthesize = replace(m3.config.synthesize, url="https://me:hf_secret@llm.example/v1?api-key=k3y")
    card = m3.again(synthesize=synthesize).card
    assert "hf_secret" not in card
    assert re.search(r"^ *url: https://\*\*\*@llm\.example/v1\?\*\*\*$", card, re.MULTILINE)
    assert "k3y" not in card


def test_the_card_of_three_heads(m3: Export) -> None:
    text = m3.words
    assert "- Dense: 16 numbers a text, pooled by cls, scaled to length 1; compared by cosine." in text
    assert "- Multi-vector: 16 numbers a token, scaled to length 1." in text
    assert "- Before every query: `for the `" in text
    assert "`multi_vector`, `hybrid` and `hybrid_rrf` rank the 200 best passages of `dense` and `sparse`: " in text
    assert "`hybrid` by 1 * dense + 0.3 * sparse + 1 * multi_vector, `hybrid_rrf`" in text
    assert "`hybrid_tuned` is " in text
    assert "weights of their losses: dense 1, sparse 0.1, multi-vector 1; ensemble 1." in text
    assert "Self-distillation: the ensemble, 1 * dense + 0.3 * sparse + 1 * multi_vector, teaches each head." in text
    assert not re.search("LoRA|started|Not trained|insert CLS|float16", text)
    full = m3.again(eval=replace(m3.config.eval, multi_vector="full"))
    assert " guard. `hybrid` and `hybrid_rrf` rank the 200 best" in full.words


def test_the_card_of_the_dense_head_on_one_set(dense: Export) -> None:
    text = dense.words
    assert not re.search("hybrid|sparse|multi|guard|Holm|Probes|LoRA|BGEM3", text)
    assert "p is from a paired randomisation test.\n" in text
    assert "Put `" not in text
    assert list(snippets(dense)) == ["SentenceTransformer", "FlagModel", "AutoModel"]
    assert len(dense.front["model-index"][0]["results"]) == 1
    assert dense.front["license"] == "unknown"
    half = dense.again(export=ExportConfig(dtype="fp16"))
    assert "Measured with the weights in float32; the files here hold them in float16." in half.words


def test_the_card_says_which_heads_were_not_trained(m3: Export) -> None:
    def text(**options: Any) -> str:
        return m3.again(train=TrainConfig(**options)).words

    only = text(heads=("dense",))
    assert "The dense head was trained. Not trained: the sparse and multi-vector heads; the encoder below was." in only
    assert "self-distillation" not in only.lower()
    two = text(heads=("sparse", "multi_vector"), freeze="encoder", self_distillation_start=30)
    assert "losses: sparse 0.1, multi-vector 1; ensemble 1." in two
    assert "0.3 * sparse + 1 * multi_vector, teaches each head from step 30 on." in two
    assert "Not trained: the dense head. Frozen: the encoder." in two
    assert "Self-distillation" not in text(self_distillation=False)


def test_the_card_of_a_lora_on_started_heads(m3: Export) -> None:
    train = TrainConfig(lora=LoraConfig(rank=4), sparse=replace(TrainConfig().sparse, ensemble_weight=0.5))
    text = m3.again(train=train, started=("sparse", "multi_vector"), forms=("adapter",)).words
    assert "LoRA of rank 4 and alpha 32 on all-linear, which is merged into these weights." in text
    assert "The sparse and multi-vector heads started in closed form from the corpus" in text
    assert "The base model lacks the sparse and multi-vector heads; base is measured with what training" in text
    assert "0.5 * sparse" in text
    assert "The LoRA adapter by itself is in the folder `export-adapter`" in text


def test_the_card_of_a_base_that_won(m3: Export) -> None:
    report = {key: value for key, value in m3.measured.report.items() if key != "merging"}
    report["systems"] = {name: {**told, "weights": "same"} for name, told in report["systems"].items()}
    kept = m3.again(report=report, started=("sparse",), train=TrainConfig(lora=LoraConfig(rank=4)))
    text = kept.words
    assert "**, with the sparse head that training started from. No checkpoint was better on dev." in text
    assert "fine-tuned" not in text
    assert "What was tried, none of which is in these weights: 1,234 queries" in text
    assert "by LoRA of rank 4 and alpha 32 on all-linear." in text
    assert not [tag for tag in kept.front["tags"] if tag.startswith("dataset_size")]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.25, "The weights are 0.25 tuned and 0.75 base, the best on dev so that no guard loses more than 0.01 "),
        (
            0.0,
            "**. No share of the tuned weights would do, so that no guard loses more than 0.01 of nDCG@10: these are",
        ),
    ],
)
def test_the_card_of_a_merge(m3: Export, share: float, expected: str) -> None:
    report = {**example_report(systems=3, sets=3, heads=ALL)}
    report["merging"] = {"allowed_loss": 0.01, "points": [{"share": share, "chosen": True}]}
    weights = {"base": "a", "tuned": "b", "merged": "c" if share else "a"}
    report["systems"] = {name: {**told, "weights": weights[name]} for name, told in report["systems"].items()}
    merge = replace(m3.config.merge, shares=(0.25,), models=("runs/other",))
    text = m3.again(report=report, merge=merge).words
    assert expected in text
    assert "The tuned weights are the mean of 2 models." in text
    assert "| nDCG@10 base | merged |" in text


def test_a_mcls_model_says_what_other_readers_do_not_do(tmp_path: Path) -> None:
    one = export(tmp_path, tiny.m3(tmp_path / "base"), {"pooling": "mcls"})
    assert "Other readers do not insert CLS tokens" in one.words
    assert "pooling_method='cls'" in one.words
    assert "states[:, 0]" in one.words


def test_heads_that_were_not_asked_for_came_along(tmp_path: Path) -> None:
    one = export(tmp_path, tiny.m3(tmp_path / "base"), {"heads": ["dense"]}, sets=1)
    assert "sparse and multi-vector heads came along, neither trained nor measured" in one.words
    assert "BGEM3FlagModel(" not in one.words
    assert not {"sparse", "multi-vector"} & set(one.front["tags"])


@pytest.mark.parametrize(
    ("head", "absent", "layer"),
    [("sparse", "colbert_linear", "sparse_linear"), ("multi_vector", "sparse_linear", "colbert_linear")],
)
def test_one_head_beside_dense_is_not_for_flagembedding(tmp_path: Path, head: Head, absent: str, layer: str) -> None:
    one = export(tmp_path, tiny.m3(tmp_path / "base"), {"heads": ["dense", head]}, sets=1)
    setattr(one.encoder.layers, absent, None)
    spoken = head.replace("_", "-")
    assert f"The {spoken} head is in `heads.safetensors`, as weight and bias of `{layer}`: " in one.words
    assert "cannot read this folder: without both heads' files" in one.words
    assert "BGEM3FlagModel(" not in one.words
    assert spoken in one.front["tags"]


def test_heads_that_training_started_with_are_known(tmp_path: Path) -> None:
    job = jobs.prepared(tmp_path, model={"heads": list(ALL)})
    encoder = Encoder.load_folder(tiny.m3(tmp_path / "tuned"), job.config.model)
    encoder.save(job.run.best)
    write_text(job.run.report / "report.json", "{}")
    write_json(job.run.examples.parent / "stats.json", STATS)
    assert measured_in(job.run, job.config, encoder).started == ()
    (job.run.best / "started_heads").mkdir()
    assert measured_in(job.run, job.config, encoder).started == ("sparse", "multi_vector")


def test_the_same_findings_give_the_same_bytes(m3: Export, tmp_path: Path) -> None:
    write_card(tmp_path, m3.config, m3.encoder, m3.measured)
    for name in ("README.md", PLOT_FILE):
        assert (tmp_path / name).read_bytes() == (m3.folder / name).read_bytes()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == m3.card


# -- the picture


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("sets", "shown"), [(1, 8), (3, 8), (5, 4), (8, 1)], ids=["one", "all", "heads-alone", "deciders-alone"]
)
def test_the_picture_shows_what_can_be_read(sets: int, shown: int) -> None:
    report = example_report(systems=3, sets=sets)
    found = texts(gains_plot(report))
    names = [text for text in found if text in report["sets"]]
    assert names == list(report["sets"])
    gains = [text for text in found if "[" in text]
    assert len(gains) == sets * shown
    for told in report["sets"].values():
        gain = told["gains"]["hybrid"]["merged"]["ndcg@10"]
        low, high = gain["ci95"]
        assert f"{gain['abs']:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−") in gains
    assert found.count("hybrid") == sets


def test_the_picture_holds_any_name_and_no_gain_at_all() -> None:
    report = example_report(systems=2, sets=2, heads=["dense"], text=" <b>&\x00\u202e 東京" * 20)
    found = texts(gains_plot(report))
    assert [text for text in found if text.startswith("medquad <b>& 東京") and text.endswith("…")]
    for told in report["sets"].values():
        told["gains"]["dense"]["tuned"]["ndcg@10"].update(abs=0.0, ci95=[0.0, 0.0], p_holm=1.0)
    svg = gains_plot(report)
    assert texts(svg).count("0.000 [0.000, 0.000]") == 2
    assert "nan" not in svg
    # nothing that a viewer would have to fetch, run or style
    assert not re.search("href|<script|<style|url\\(", svg)
