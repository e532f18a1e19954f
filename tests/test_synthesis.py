"""Synthetic queries: every fault of an endpoint, kills at random moments, lenient reading, the way into the set."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.config_data import FewShot, SynthesizeConfig
from bgetune.data import RetrievalSet, Texts, normalised, read_retrieval_set, write_retrieval_set
from bgetune.errors import UserError
from data_prep.synthesis import client, generate
from data_prep.synthesis.answers import MOST_WORDS, cleaned, queries_in
from data_prep.synthesis.cache import AnswerCache
from data_prep.synthesis.generate import synthesize
from data_prep.synthesis.merge import chosen_rows, with_synthetic
from data_prep.synthesis.prompt import MOST_CHARACTERS, prompt_for
from data_prep.synthesis.round_trip import keep_found
from tests.fake_endpoint import (
    BROKEN_JSON,
    CUT,
    EMPTY,
    HANG,
    NO_LIST,
    SERVER_ERROR,
    TOO_MANY,
    FakeEndpoint,
    Reply,
    refuses,
    says,
    two_queries,
)

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-a-very-secret-key-0123456789"


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited before each new try; nothing is."""
    waited: list[float] = []

    def wait_before(attempt: int, asked: float | None, jitter: float) -> float:
        waited.append(client.wait_before(attempt, asked, 0.0))
        return 0.0

    monkeypatch.setattr(generate, "wait_before", wait_before)
    return waited


def some(count: int) -> Texts:
    return Texts([f"p{i}" for i in range(count)], [f"topic{i}" for i in range(count)])


def config(url: str, **changes: object) -> SynthesizeConfig:
    return SynthesizeConfig(**{"url": url, "model": "m", "concurrency": 4, "timeout": 5.0, **changes})  # type: ignore[arg-type]


def expected(count: int) -> list[list[str]]:
    return [[f"what is said of topic{i}", f"who asks for topic{i} by 0"] for i in range(count)]


# --- the endpoint and its faults -------------------------------------------------------------------------------------


def test_asks_each_passage_once_and_never_again(tmp_path: Path) -> None:
    with FakeEndpoint() as server:
        assert synthesize(some(20), config(server.url), tmp_path / "a" / "b") == expected(20)
        assert set(server.calls.values()) == {1}
        assert server.requests[0].keys() == {"model", "messages", "temperature", "max_tokens", "seed"}
        assert all("Authorization" not in {name.title() for name in headers} for headers in server.headers)
    # the server is gone, and was at another address: neither matters for what is known
    elsewhere = config("http://127.0.0.1:9/v1")
    assert synthesize(some(20), elsewhere, tmp_path / "a" / "b") == expected(20)


@pytest.mark.parametrize("changed", ["model", "prompt", "temperature", "max_tokens", "seed", "queries_per_passage"])
def test_all_that_decides_an_answer_is_in_its_key(tmp_path: Path, changed: str) -> None:
    other = {
        "model": "n", "prompt": "Ask {count}! Passage: {passage}", "temperature": 0.1, "max_tokens": 9, "seed": 5,
        "queries_per_passage": 1,
    }[changed]  # fmt: skip
    with FakeEndpoint() as server:
        synthesize(some(1), config(server.url), tmp_path)
        synthesize(some(1), config(server.url, **{changed: other}), tmp_path)
        assert server.calls["topic0"] == 2


def test_concurrency_bounds_the_requests_under_way(tmp_path: Path) -> None:
    with FakeEndpoint(answer=lambda passage, seed: says(f'["of {passage}"]', delay=0.02)) as server:
        synthesize(some(15), config(server.url, concurrency=3), tmp_path)
        assert server.most_at_once == 3


def test_equal_passages_are_asked_about_once(tmp_path: Path) -> None:
    with FakeEndpoint() as server:
        found = synthesize(Texts(["a", "b"], ["topic0", "topic0"]), config(server.url), tmp_path)
        assert found == expected(1) * 2
        assert server.calls == {"topic0": 1}


@pytest.mark.parametrize(
    ("fault", "seed"),
    [
        *((fault, 0) for fault in (TOO_MANY, SERVER_ERROR, CUT, BROKEN_JSON, Reply(body=b'{"choices": []}'))),
        *((broken, 1) for broken in (NO_LIST, EMPTY, says(None), says("<think>hm"), says('["'))),
    ],
)
def test_tries_again(tmp_path: Path, waits: list[float], fault: Reply, seed: int) -> None:
    """A broken answer is asked for with another seed; a fault on the way does not change what is asked."""
    with FakeEndpoint({"topic1": [fault]}) as server:
        wanted = expected(3)
        wanted[1][1] = f"who asks for topic1 by {seed}"
        assert synthesize(some(3), config(server.url), tmp_path) == wanted
        assert server.calls == {"topic0": 1, "topic1": 2, "topic2": 1}
    assert waits == [0.5]


def test_gives_a_hanging_request_up(tmp_path: Path, waits: list[float]) -> None:
    with FakeEndpoint({"topic0": [HANG]}) as server:
        start = time.monotonic()
        assert synthesize(some(1), config(server.url, timeout=0.3), tmp_path) == expected(1)
        assert time.monotonic() - start < 3
        assert waits == [0.5]


def test_waits_longer_each_time_and_as_long_as_the_server_asks(tmp_path: Path, waits: list[float]) -> None:
    faults = [SERVER_ERROR, SERVER_ERROR, refuses(429, Retry_After="7"), refuses(503, Retry_After="86400")]
    with FakeEndpoint({"topic0": faults}) as server:
        synthesize(some(1), config(server.url), tmp_path)
    assert waits == [0.5, 1.0, 7.0, 120.0]


def test_really_waits(tmp_path: Path) -> None:
    with FakeEndpoint({"topic0": [refuses(429, Retry_After="0.8")]}) as server:
        start = time.monotonic()
        synthesize(some(1), config(server.url), tmp_path)
        assert 0.8 <= time.monotonic() - start < 3


def test_tries_no_more_than_told(tmp_path: Path, waits: list[float]) -> None:
    with FakeEndpoint({"topic0": [SERVER_ERROR] * 9}) as server:
        found = synthesize(some(2), config(server.url, retries=3, max_failures=0.5), tmp_path)
        assert found == [[], *expected(2)[1:]]
        assert server.calls["topic0"] == 4


def test_a_request_that_cannot_succeed_is_not_repeated(
    tmp_path: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with FakeEndpoint({"topic0": [refuses(400, "too many tokens")]}) as server, caplog.at_level(logging.WARNING):
        assert synthesize(some(2), config(server.url, max_failures=0.5), tmp_path)[0] == []
        assert server.calls["topic0"] == 1
    assert caplog.messages == [
        "synthesize: 1 of 2 passages stay without queries; the first: HTTP 400 (too many tokens)"
    ]


def test_too_many_failures_stop_and_running_again_continues(tmp_path: Path, waits: list[float]) -> None:
    bad = {f"topic{i}": [SERVER_ERROR, SERVER_ERROR] for i in (3, 5, 7)}
    with FakeEndpoint(bad) as server:
        job = config(server.url, retries=1, max_failures=0.2, concurrency=1)
        with pytest.raises(UserError) as stopped:
            synthesize(some(10), job, tmp_path)
        assert str(stopped.value) == (
            "synthesize.max_failures: 3 of 10 passages have no answer, above the allowed share of 0.2; the first: "
            "HTTP 500 (out of memory); running again continues, no answer is paid for twice"
        )
        assert not server.calls["topic8"]
        assert synthesize(some(10), job, tmp_path) == expected(10)
        assert [server.calls[f"topic{i}"] for i in range(10)] == [1, 1, 1, 3, 1, 3, 1, 3, 1, 1]


@pytest.mark.parametrize(
    ("status", "key", "words"),
    [
        (401, None, ["synthesize.api_key_env: ", "environment variable OPENAI_API_KEY is not set"]),
        (401, KEY, ["synthesize.api_key_env: ", "check the key in the environment variable OPENAI_API_KEY"]),
        (403, KEY, ["synthesize.api_key_env: ", "synthesize.model"]),
        (404, KEY, ["synthesize.url: ", "synthesize.model", "/v1", '"m"']),
        (308, KEY, ["synthesize.url: "]),
    ],
)
def test_the_users_mistakes_end_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, key: str | None, words: list[str]
) -> None:
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", f" {key}\n")
    with FakeEndpoint({"*": [refuses(status, f"what is {KEY}?")]}) as server:
        with pytest.raises(UserError) as mistake:
            synthesize(some(30), config(server.url, concurrency=2), tmp_path)
        assert sum(server.calls.values()) <= 2
        assert all(headers.get("Authorization") == (f"Bearer {key}" if key else None) for headers in server.headers)
    line = str(mistake.value)
    assert all(word in line for word in words), line
    assert "\n" not in line
    assert f"answered {status}" in line
    assert not key or key not in line


def test_a_wrong_path_names_the_url(tmp_path: Path) -> None:
    with FakeEndpoint() as server, pytest.raises(UserError, match=r"synthesize\.url: .* answered 404 \(Not Found\)"):
        synthesize(some(1), config(server.url + "/chat/completions"), tmp_path)


def test_nobody_at_the_url(tmp_path: Path, waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"synthesize\.url: nobody answers at http://127\.0\.0\.1:{port}/v1 .*again"):
        synthesize(some(1), config(f"http://127.0.0.1:{port}/v1", retries=2), tmp_path)
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port", "http://[x"])
def test_what_is_no_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"synthesize\.url: .* http://localhost:8000/v1"):
        synthesize(some(1), config(url), tmp_path)


def test_the_key_is_never_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    echo = refuses(500, f"bad header Bearer {KEY}")
    answer = says(json.dumps([f"what is {KEY} for"]))
    with FakeEndpoint({"topic0": [echo] * 9}, lambda *_: answer) as server, caplog.at_level(logging.DEBUG):
        job = config(server.url, api_key_env="MY_KEY", max_failures=0.5, concurrency=1)
        found = synthesize(some(2), job, tmp_path)
        with pytest.raises(UserError) as stopped:
            synthesize(Texts(["x"], ["topic0"]), config(server.url, api_key_env="MY_KEY", retries=0), tmp_path)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    heard = capfd.readouterr()
    assert KEY not in f"{found}{stopped.value}{written}{caplog.text}{heard.out}{heard.err}"
    assert "HTTP 500 (bad header Bearer ***)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "url"),
    [(KEY, None, ""), ("MY_KEY", f"{KEY} and more", ""), ("MY_KEY", None, f"http://me:{KEY}@127.0.0.1:1/v1")],
)
def test_a_misplaced_key_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, url: str
) -> None:
    if value:
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"synthesize\.(url|api_key_env)") as mistake:
        synthesize(some(1), config(url or "http://127.0.0.1:1/v1", api_key_env=name), tmp_path)
    assert KEY not in str(mistake.value)


# --- kills and the cache ---------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from pathlib import Path
from bgetune.config_data import SynthesizeConfig
from bgetune.data import Texts
from data_prep.synthesis import generate
url, folder, out, count, concurrency = sys.argv[1:]
texts = Texts([f"p{i}" for i in range(int(count))], [f"topic{i}" for i in range(int(count))])
settings = SynthesizeConfig(url=url, model="m", concurrency=int(concurrency), timeout=5.0)
generate.wait_before = lambda *_: 0.01
Path(out).write_text(json.dumps(generate.synthesize(texts, settings, Path(folder))))
"""


def start(server: FakeEndpoint, folder: Path, out: Path, count: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", PROGRAM, server.url, str(folder), str(out), str(count), "4"]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def unsteady(passage: str, seed: int) -> Reply:
    """Slow by chance, so that answers come in any order; some passages need a second and third seed."""
    time.sleep(random.uniform(0, 0.02))
    return NO_LIST if int(passage[5:]) % 7 == 3 and seed < 2 else two_queries(passage, seed)


def test_killed_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, kills, chance = 120, 5, random.Random(4)
    with FakeEndpoint(answer=unsteady) as server:
        monkeypatch.setattr(generate, "wait_before", lambda *_: 0.0)
        calm = tmp_path / "calm.json"
        calm.write_text(json.dumps(synthesize(some(count), config(server.url, concurrency=1), tmp_path / "calm")))
        needed = server.calls.copy()
        server.calls.clear()
        answers = AnswerCache(tmp_path / "killed")
        known: set[str] = set()
        for _ in range(kills):
            before = sum(server.calls.values())
            child = start(server, tmp_path / "killed", tmp_path / "killed.json", count)
            while sum(server.calls.values()) == before and child.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.12))
            assert child.poll() is None, "it was done before it was killed: ask for more passages"
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            found = answers.read()
            assert known <= found.keys()
            known = set(found)
        assert 0 < len(known) < count
        assert start(server, tmp_path / "killed", tmp_path / "killed.json", count).wait() == 0
        assert (tmp_path / "killed.json").read_bytes() == calm.read_bytes()
        assert len((tmp_path / "killed" / "answers.jsonl").read_bytes().splitlines()) <= count + kills
        # in flight at a kill: 4 passages, each with at most the 3 calls that its answer needs
        again = {passage: calls - needed[passage] for passage, calls in server.calls.items() if calls > needed[passage]}
        assert sum(again.values()) <= kills * 4 * 3
        assert len(again) <= kills * 4


def test_two_processes_at_once(tmp_path: Path) -> None:
    with FakeEndpoint(answer=lambda passage, seed: says(f'["q {passage} {random.random()}"]')) as server:
        outs = [tmp_path / f"{i}.json" for i in range(2)]
        running = [start(server, tmp_path / "cache", out, 60) for out in outs]
        assert [child.wait() for child in running] == [0, 0]
        assert outs[0].read_bytes() == outs[1].read_bytes()
        rows = [json.loads(line) for line in (tmp_path / "cache" / "answers.jsonl").read_text().splitlines()]
        assert len({row["key"] for row in rows}) == 60


def test_a_line_torn_anywhere_is_asked_for_again(tmp_path: Path) -> None:
    with FakeEndpoint() as server:
        job = config(server.url, concurrency=1)
        synthesize(some(3), job, tmp_path)
        path = tmp_path / "answers.jsonl"
        whole = path.read_bytes()
        second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        for end in range(second, len(whole), 29):
            path.write_bytes(whole[:end])
            assert len(AnswerCache(tmp_path).read()) == 2
            AnswerCache(tmp_path).add("other", ["one more"])
            assert synthesize(some(3), job, tmp_path) == expected(3)
            assert synthesize(some(3), job, tmp_path) == expected(3)
        torn = len(range(second, len(whole), 29))
        assert server.calls == {"topic0": 1, "topic1": 1, "topic2": 1 + torn}


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    lines = [b"\x00\x00\x00", b"[1]", b'{"key": "a"}', b'{"key": "a", "queries": []}', b'{"key": "a", "queries": [1]}']
    good = [b'{"key": "a", "queries": ["first"]}', b'{"key": "a", "queries": ["second"]}', b"\xff", b"[" * 100_000]
    (tmp_path / "answers.jsonl").write_bytes(b"\n".join(lines + good))
    assert AnswerCache(tmp_path).read() == {"a": ["first"]}
    assert AnswerCache(tmp_path / "none").read() == {}


@pytest.mark.parametrize("line", ["caf\u00e9 \u2028 \x85 of \u6771\u4eac", "a\\nb\"c'"])
def test_any_character_survives(tmp_path: Path, line: str) -> None:
    AnswerCache(tmp_path).add("k", [line])
    AnswerCache(tmp_path).add("l", [line])
    assert AnswerCache(tmp_path).read() == {"k": [line], "l": [line]}


def test_runs_where_threads_share_the_cache(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    threads = [
        threading.Thread(target=lambda n=n: [cache.add(f"{n}-{i}", ["x" * 5000]) for i in range(30)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache.read()) == 120


# --- prompts and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "examples", "place"),
    [("Ask about it.", (), "passage"), ("Ask: {passage}", (FewShot("a", "b"),), "examples")],
)
def test_a_prompt_that_shows_too_little(tmp_path: Path, prompt: str, examples: tuple, place: str) -> None:
    with pytest.raises(UserError, match=rf"^synthesize\.prompt: {{{place}}} is not in it"):
        synthesize(some(1), config("http://127.0.0.1:1/v1", prompt=prompt, examples=examples), tmp_path)


def test_braces_and_long_passages_reach_the_model(tmp_path: Path) -> None:
    code = "def f(): return {0}.{count} % {passage}"
    long = "word " * 3000
    with FakeEndpoint(answer=lambda *_: says('["one good query"]')) as server:
        job = config(server.url, examples=(FewShot("{examples}", "{count}?"),), concurrency=1)
        synthesize(Texts(["a", "b"], [code, long], ["Title", ""]), job, tmp_path)
        first, second = (request["messages"][0]["content"] for request in server.requests)
    assert first.endswith(f"\n\nPassage:\nTitle {code}")
    assert '\n\nFor example, for this passage:\n{examples}\na good answer is:\n["{count}?"]\n\nPassage:' in first
    assert first.startswith("Write 2 different")
    assert second.endswith(" word word")
    assert MOST_CHARACTERS <= len(second) < MOST_CHARACTERS + 500


def test_a_long_passage_without_spaces_is_cut_in_a_word() -> None:
    assert prompt_for("\u6771" * 7000, SynthesizeConfig(prompt="{passage}")) == "\u6771" * MOST_CHARACTERS


@pytest.mark.parametrize(
    "answer",
    [
        '["how hot is tea", "who drinks tea"]',
        'Here you are: ["how hot is tea", "who drinks tea"]',
        'Sure!\n```json\n["how hot is tea", "who drinks tea"]\n```\nAnything else?',
        '```\n{"queries": ["how hot is tea", "who drinks tea"], "note": "fine"}\n```',
        '[{"query": "how hot is tea", "type": "fact"}, {"query": "who drinks tea"}]',
        '{"query_1": "how hot is tea", "query_2": "who drinks tea", "note": "two"}',
        '{"1": "how hot is tea", "2": "who drinks tea"}',
        '["how hot is tea", "who drinks tea",]',
        "['how hot is tea', 'who drinks tea']",
        '["how hot is tea", "who drinks tea", "why does the tea of th',
        '{"queries": ["how hot is tea", "who drinks tea", "and th',
        "1. how hot is tea\n2. who drinks tea",
        'Queries:\n\n1) "how hot is tea"\n\n2) "who drinks tea"\n',
        "- how hot is tea\n* who drinks tea\n\u2022",
        "**1. how hot is tea**\n**2. who drinks tea**",
        "* **Query 1:** how hot is tea\n* **Query 2:** who drinks tea",
        "(1) \u201chow hot is tea\u201d\n(2) \u00abwho drinks tea\u00bb",
        '<think>The user wants ["tea"].\n1. tea</think>\n["how hot is tea", "who drinks tea"]',
        'a thought whose start the template ate</think>["how hot is tea", "who drinks tea"]',
        '["how hot is tea", "How hot  is tea", " who drinks\\ntea ", "", "?!"]',
        '["1. how hot is tea", "\\"Query: who drinks tea\\""]',
    ],
)
def test_reads_lists_of_every_kind(answer: str) -> None:
    assert queries_in(answer, ["Tea is hot."]) == ["how hot is tea", "who drinks tea"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Sorry.",
        "[]",
        "{}",
        "[1, 2]",
        '["',
        "[" * 100_000,
        "\n" * 100_000,
        '[""]',
        "<think>1. tea",
        '[{"query": "how h',
        "1.\n2.\n",
    ],
)
def test_nothing_usable(answer: str) -> None:
    assert queries_in(answer, ["Tea is hot."]) == []


def test_leaves_out_the_long_and_the_copied() -> None:
    passage = "Tea is a hot drink, made of leaves. It comes from China."
    long = " ".join(["word"] * (MOST_WORDS + 1))
    answer = json.dumps([long, "tea is a hot drink made of", "Tea is hot?", passage, "\u8336" * 700, "x " + passage])
    assert queries_in(answer, [passage]) == ["Tea is hot?", "x " + passage]
    assert queries_in('["Tea is a hot drink, made of"]', ["Drinks " + passage, passage]) == []


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="[]{}\"',:\\ \n.1-*`<think>/ab\ud800\x00", max_size=60))
def test_no_answer_breaks_the_reader(answer: str) -> None:
    for query in queries_in(answer, ["p"]):
        assert query == query.strip()
        assert query.encode().decode() == query
        assert cleaned(query) == query


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="abc def?\u00e9\u6771", min_size=1), max_size=5))
def test_a_json_list_is_read_as_json_reads_it(queries: list[str]) -> None:
    found = queries_in(json.dumps(queries), ["unlike"])
    letters = {normalised(q) for q in queries if any(c.isalnum() for c in q)}
    assert {normalised(q) for q in found} == letters
    assert len(found) == len(letters)


# --- the way into the set --------------------------------------------------------------------------------------------


def a_set() -> RetrievalSet:
    corpus = Texts(["a", "b", "c", "d", "e"], [f"text {i}" for i in "abcde"])
    queries = Texts(["q1", "q2", "q3"], ["about a", "about b", "about nobody"], [], Path("queries.jsonl"), [1, 2, 3])
    return RetrievalSet(corpus, queries, {"train": {"q1": {"a": 1, "c": 0}}, "test": {"q2": {"b": 2}}})


def test_chosen_are_the_passages_without_a_query() -> None:
    assert chosen_rows(a_set(), SynthesizeConfig()) == [2, 3, 4]
    some_rows = {seed: chosen_rows(a_set(), SynthesizeConfig(max_passages=2, seed=seed)) for seed in range(20)}
    assert all(rows == sorted(rows) and len(rows) == 2 for rows in some_rows.values())
    assert {tuple(rows) for rows in some_rows.values()} == {(2, 3), (2, 4), (3, 4)}
    assert chosen_rows(a_set(), SynthesizeConfig(max_passages=9)) == [2, 3, 4]


def test_synthetic_queries_join_the_set(tmp_path: Path) -> None:
    before = a_set()
    generated = [["why c", "About  A"], ["WHY C", "why d"], ["about b", "about nobody"]]
    data = with_synthetic(before, generated, [2, 3, 4])
    assert data.queries.ids == ["q1", "q2", "q3", "syn:c:1", "syn:d:2"]
    assert data.queries.texts[3:] == ["why c", "why d"]
    assert data.queries.metadata == [{}, {}, {}, {"builder": "synthetic"}, {"builder": "synthetic"}]
    assert data.qrels == {
        "train": {"q1": {"a": 1, "c": 0}, "q3": {"e": 1}, "syn:c:1": {"c": 1, "d": 1}, "syn:d:2": {"d": 1}},
        "test": {"q2": {"b": 2}},  # what is measured with stays, and "about b" does not come into training
    }
    assert before == a_set()
    write_retrieval_set(tmp_path, data)
    assert read_retrieval_set(tmp_path).qrels == data.qrels


def test_a_set_without_queries_and_a_second_round() -> None:
    empty = RetrievalSet(Texts(["a", "a:1"], ["x", "y"]), Texts([], []), {})
    assert with_synthetic(empty, [[], []], [0, 1]).qrels == {}
    once = with_synthetic(empty, [["one"], []], [0, 1])
    twice = with_synthetic(once, [["two", "three"], ["four"]], [0, 1])
    assert twice.queries.ids == ["syn:a:1", "syn:a:2", "syn:a:3", "syn:a:1:1"]
    assert twice.qrels["train"] == {i: {"a:1" if i == "syn:a:1:1" else "a": 1} for i in twice.queries.ids}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 6), st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_round_trip_equals_its_definition(count: int, width: int, rank: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows, wanted = draw.integers(-1, 8, (count, width)), draw.integers(0, 8, count).tolist()
    kept = keep_found(["q"] * count, wanted, rows, rank)
    assert kept == [wanted[i] in rows[i].tolist()[:rank] for i in range(count)]


def test_a_user_who_interrupts_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered before Ctrl-C is kept."""
    original = AnswerCache.add

    def add(cache: AnswerCache, key: str, queries: list[str]) -> None:
        original(cache, key, queries)
        if len(cache.read()) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(AnswerCache, "add", add)
    with FakeEndpoint() as server:
        with pytest.raises(KeyboardInterrupt):
            synthesize(some(9), config(server.url, concurrency=1), tmp_path)
        monkeypatch.undo()
        assert synthesize(some(9), config(server.url), tmp_path) == expected(9)
        assert sum(server.calls.values()) == 9
