"""The push over real HTTP: it ends complete or says what to do, the next one goes on, and nothing tells the token."""

from __future__ import annotations

import doctest
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bgetune import config_export
from bgetune.cli import main
from bgetune.config import JobConfig
from bgetune.config_io import load_job
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export import program, push, push_check, push_failures, push_hub, push_secret
from bgetune.export.push import Destination
from bgetune.files import write_json, write_text
from bgetune.run import Run
from tests import jobs, tiny
from tests.hub_server import TOKEN, FakeHub, Fault, Stored, nothing_tells_the_token, served
from tests.jobs import only_error

CARD = '---\nlicense: mit\n---\n# A tuned model\nModel("PATH_OR_ID")\n'
REPO = "org/bge-clinic"
_SECRET = "--push: its value (not repeated: it may be a secret) is no repository; write ORG/NAME"
TITLE = "clinic: export of bgetune"


@pytest.mark.parametrize("module", [config_export, program, push, push_failures, push_hub, push_secret])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def quick_export(config: JobConfig, run: Run) -> None:
    """Stands for the stage, which takes seconds for what other tests look at."""
    Encoder.load_folder(run.final(config), config.model).save(run.export)
    write_text(run.export / "README.md", CARD)
    write_json(run.export / "bgetune.json", {})
    (run.export / "onnx").mkdir(exist_ok=True)
    (run.export / "onnx" / "model.onnx").write_bytes(bytes(range(256)) * 200)
    sparse = run.root / "export-sparse"
    sparse.mkdir(exist_ok=True)
    shutil.copy(run.export / "model.safetensors", sparse / "model.safetensors")
    write_text(sparse / "README.md", CARD)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A job's folder whose export is finished."""
    folder = tmp_path_factory.mktemp("push")
    job = jobs.prepared(folder, encode_precision="fp32")
    Encoder.load_folder(tiny.model(folder / "tuned", seed=5), job.config.model).save(job.run.best)
    write_json(job.run.report / "report.json", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bgetune.export.stage.export", quick_export)
        assert main(["export", *job.words]) == 0
    return job.run.root


@pytest.fixture(scope="module")
def config(finished: Path) -> JobConfig:
    return load_job(finished / "config.yaml")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    return Run(shutil.copytree(finished, tmp_path / "job"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[FakeHub]:
    caplog.set_level(logging.INFO, "bgetune")
    with served(monkeypatch) as server:
        yield server


def words(run: Run, *more: str) -> list[str]:
    return ["export", str(run.root), "--push", REPO, *more]


def pushed(config: JobConfig, run: Run, **to: object) -> tuple[int, str]:
    """The push without the stage before it: exit code and error line."""
    try:
        push.push(config, run, replace(Destination(REPO), **to))
    except push_failures.PushFailed as failure:
        return 1, str(failure)
    except UserError as error:
        return 2, str(error)
    return 0, ""


def local(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_complete(hub: FakeHub, run: Run, branch: str = "main", folder: str = "export") -> bool:
    there = hub.repos[REPO].files(branch) if REPO in hub.repos else {}
    named = {"README.md": (CARD if folder != "export" else CARD.replace("PATH_OR_ID", REPO)).encode()}
    expected = {**local(run.root / folder), **named}
    return {name: there.get(name) for name in expected} == expected


def test_each_folder_goes_to_its_branch_and_comes_back_the_same(run, hub, capfd, caplog):
    assert main(words(run)) == 0
    repo = hub.repos[REPO]
    assert is_complete(hub, run)
    assert is_complete(hub, run, "sparse", "export-sparse")
    assert set(repo.files("sparse")) == {".gitattributes", "README.md", "model.safetensors"}
    assert sorted(repo.heads) == ["main", "sparse"]
    assert repo.titles() == [TITLE, "initial commit"]
    url, count = f"{hub.url}/{REPO}/commit/{repo.heads['main']}", len(local(run.export))
    line = f"pushed: {url} (branch main): {count} files fetched again, every SHA-256 is ours, its vectors of 4 texts"
    assert line in caplog.text
    assert not list(run.root.glob(".push*"))
    assert hub.calls["upload"] == 2  # the weights lie in both branches and are sent once
    assert not any(TOKEN in address for address in hub.addresses)
    assert not hub.storage_saw_token
    nothing_tells_the_token(run.root, *capfd.readouterr(), caplog.text)


def test_the_second_time_nothing_is_sent_committed_or_fetched(run, config, hub, caplog):
    assert pushed(config, run) == (0, "")
    before, calls = dict(hub.repos[REPO].heads), hub.calls.copy()
    assert pushed(config, run) == (0, "")
    assert hub.repos[REPO].heads == before
    assert {name for name in hub.calls if hub.calls[name] > calls[name]} == {"create", "info", "tree"}
    assert "push: nothing to do on branch main" in caplog.text
    # without the note that it was compared, it is compared
    run.manifest("push").unlink()
    assert pushed(config, run) == (0, "")
    assert "(branch main): nothing to send, " in caplog.text
    assert hub.repos[REPO].heads == before


MAY_NOT = "may not do that in org/bge-clinic"
FAULTS = {
    "token unknown": (Fault("create", 401), 2, "does not know the token"),
    "no permission to make": (Fault("create", 403), 2, MAY_NOT),
    "no permission to write": (Fault("commit", 403), 2, MAY_NOT),
    "no permission to store": (Fault("batch", 403), 2, MAY_NOT),
    "branch gone": (Fault("commit", 404), 2, "is not there"),
    "refused": (Fault("commit", 422, says="no such thing"), 2, r"refuses it \(422\) \(no such thing\)"),
    "busy once": (Fault("commit", 409, times=1), 0, ""),
    "busy for ever": (Fault("commit", 409), 1, "the Hub answers 409"),
    "overtaken": (Fault("commit", overtaken=True, times=2), 0, ""),
    "overtaken for ever": (Fault("commit", overtaken=True), 1, "the Hub answers 412"),
    "too many at first": (Fault("commit", 429, times=2, headers={"Retry-After": "0"}), 0, ""),
    "too many for ever": (Fault("preupload", 429), 1, "the Hub answers 429"),
    "broken at first": (Fault("batch", 503, times=2), 0, ""),
    "commit broken at first": (Fault("commit", 500, times=1), 0, ""),
    "storage broken for ever": (Fault("upload", 500), 1, "the Hub answers 500"),
    "upload cut once": (Fault("upload", cut=True, times=1), 0, ""),
    "second upload cut for ever": (Fault("upload", cut=True, skip=1), 1, "the connection broke"),
    "commit cut once": (Fault("commit", cut=True, times=1), 0, ""),
    "commit done and unheard": (Fault("commit", unheard=True, times=1), 0, ""),
    "branch made and unheard": (Fault("branch", unheard=True, times=1), 0, ""),
    "repository made and unheard": (Fault("create", unheard=True, times=1), 0, ""),
    "download cut once": (Fault("download", cut=True, times=1), 0, ""),
    "small download cut for ever": (Fault("resolve", cut=True, skip=2), 1, "the connection broke"),
    "download broken for ever": (Fault("download", 500), 1, "the Hub answers 500"),
    "silence": (Fault("commit", delay=2.0, times=1), 0, ""),
    "download garbled": (Fault("download", garbled=True), 1, "what the Hub gives back is not what was sent: "),
}


@pytest.mark.parametrize(("fault", "code", "says"), FAULTS.values(), ids=FAULTS)
def test_a_fault_ends_complete_or_in_one_line_and_the_next_push_completes(
    run, config, hub, caplog, monkeypatch, fault, code, says
):
    monkeypatch.setattr(push_hub, "ANSWER_SECONDS", 1.0 if fault.delay else 120.0)
    monkeypatch.setattr(push_check, "compared", lambda *_: "")
    hub.faults = [replace(fault)]
    ended, line = pushed(config, run)
    assert ended == code, line
    assert "\n" not in line
    assert re.search(says, line), line
    assert line.endswith("run the same command again to go on") == (code == 1 and not fault.garbled)
    assert code or is_complete(hub, run)
    nothing_tells_the_token(run.root, line, caplog.text)
    assert not list(run.root.glob(".push*"))
    if REPO in hub.repos:  # no branch ever has a part of the files
        own = set(local(run.export))
        assert own.intersection(hub.repos[REPO].files()) in (set(), own)
    hub.faults = []
    assert pushed(config, run) == (0, "")
    assert is_complete(hub, run)
    assert is_complete(hub, run, "sparse", "export-sparse")
    assert hub.repos[REPO].titles().count(TITLE) == 1


def test_what_was_stored_before_the_break_is_not_sent_again(run, config, hub, monkeypatch):
    monkeypatch.setattr(push_hub, "_BIG", 1000)
    hub.faults = [Fault("upload", 500, skip=1)]
    assert pushed(config, run)[0] == 1
    assert len(hub.storage) == 1
    hub.faults, sent = [], hub.calls["upload"]
    assert pushed(config, run) == (0, "")
    assert hub.calls["upload"] == sent + 1


def test_big_files_in_parts(run, config, hub):
    hub.part = 10_000
    hub.faults = [Fault("upload", cut=True, times=1, skip=2)]
    assert pushed(config, run) == (0, "")
    assert is_complete(hub, run)
    assert hub.calls["complete"] == 2


@pytest.mark.parametrize(("at", "status"), [("create", 401), ("commit", 403), ("resolve", 400), ("upload", 500)])
def test_a_server_that_repeats_the_token(run, config, hub, capfd, caplog, at, status):
    hub.faults = [Fault(at, status, echo=True)]
    ended, line = pushed(config, run)
    assert ended in (1, 2)
    assert line.startswith("push to org/bge-clinic, ")
    everything = "".join((line, *capfd.readouterr(), caplog.text))
    assert "Signature=secret" not in everything
    nothing_tells_the_token(run.root, everything)


def test_our_own_mistakes_keep_their_traceback_without_the_token(run, config, hub, monkeypatch):
    def slip(*_: object) -> None:
        raise AttributeError(f"no attribute of Bearer {TOKEN}")

    monkeypatch.setattr(push_hub.Hub, "_head", slip)
    with pytest.raises(RuntimeError, match=r"(?s)not foreseen.*Traceback.*no attribute of Bearer") as error:
        pushed(config, run)
    assert TOKEN not in str(error.value)
    assert error.value.__suppress_context__


def test_a_stale_file_that_a_reader_would_load_goes_and_others_stay(run, config, hub):
    assert pushed(config, run) == (0, "")
    repo = hub.repos[REPO]
    theirs = {"pytorch_model.bin": True, "LICENSE": False, "notes/plan.md": False, "onnx/model_int8.onnx": True}
    theirs |= {"2_Dense/config.json": False, "results/mteb.json": False, "adapter_config.json": False}
    more = {name: Stored(b"theirs", big) for name, big in theirs.items()}
    repo.commit("main", "by hand", {**repo.commits[repo.heads["main"]].files, **more}, repo.heads["main"])
    assert pushed(config, run) == (0, "")
    assert is_complete(hub, run)
    assert {name for name in repo.files() if name in theirs} == {"LICENSE", "notes/plan.md", "results/mteb.json"}


def test_another_branch(run, config, hub):
    assert pushed(config, run, revision="v1") == (0, "")
    repo = hub.repos[REPO]
    assert sorted(repo.heads) == ["main", "v1", "v1-sparse"]
    assert set(repo.files("main")) == {".gitattributes"}
    assert is_complete(hub, run, "v1")


def test_a_pull_request_changes_no_branch_and_is_opened_once(run, config, hub, caplog):
    hub.faults = [Fault("commit", unheard=True, times=1)]
    assert pushed(config, run, pull=True) == (0, "")
    repo = hub.repos[REPO]
    assert sorted(repo.heads) == ["main", "refs/pr/1"]
    assert set(repo.files("main")) == {".gitattributes"}
    assert is_complete(hub, run, "refs/pr/1")
    assert f"pushed: {hub.url}/{REPO}/discussions/1 (pull request)" in caplog.text
    assert "export-sparse stays here: a pull request has the main folder alone" in caplog.text
    # the same again, while it is open; when it was closed, another
    assert pushed(config, run, pull=True) == (0, "")
    assert sorted(repo.heads) == ["main", "refs/pr/1"]
    repo.closed.add("refs/pr/1")
    assert pushed(config, run, pull=True) == (0, "")
    assert sorted(repo.heads) == ["main", "refs/pr/1", "refs/pr/2"]
    # going on in it
    assert pushed(config, run, revision="refs/pr/1") == (0, "")
    assert sorted(repo.heads) == ["main", "refs/pr/1", "refs/pr/2"]
    code, line = pushed(config, run, revision="refs/pr/7")
    assert (code, line) == (2, "--revision: org/bge-clinic has no refs/pr/7; open one with --pr")


def test_an_empty_name_is_no_silence(run, hub, capsys):
    assert main(["export", str(run.root), "--push", ""]) == 2
    assert "--push" in only_error(capsys)
    assert not hub.calls


def test_private(run, config, hub):
    assert pushed(config, run, private=True) == (0, "")
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    code, line = pushed(config, run, private=True)
    assert code == 2
    assert "--private: org/bge-clinic is there already and is public" in line


def test_the_configuration_names_the_destination_and_a_flag_wins(config):
    config = replace(config, hub=replace(config.hub, repo="org/a", private=True, revision="v2"))
    assert push.destination(config, None) == Destination("org/a", True, "v2")
    assert push.destination(config, "org/b", revision="v3") == Destination("org/b", True, "v3")
    assert push.destination(replace(config, hub=JobConfig().hub), None) is None


def test_only_rank_0_pushes(run, hub, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(words(run)) == 0
    assert not hub.addresses


def test_dry_run_lists_files_and_card_and_asks_nobody(run, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert main(words(run, "--dry-run")) == 0
    out = capsys.readouterr().out
    assert not hub.addresses
    assert f"{REPO}: --dry-run, nothing is sent" in out
    assert re.search(rf"branch main, from {re.escape(str(run.export))}\n(.*\n)*     51.2 kB  onnx/model.onnx\n", out)
    assert f"branch sparse, from {run.root / 'export-sparse'}" in out
    assert out.endswith(CARD.replace("PATH_OR_ID", REPO))
    assert not [name for name in local(run.export) if f"  {name}\n" not in out]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bge-clinic", _SECRET),
        ("org/a b", "--push: 'org/a b' is no repository; write ORG/NAME"),
        (f"https://me:{TOKEN}@huggingface.co/org/x", _SECRET),
        (TOKEN, _SECRET),
        (f"org/{TOKEN}", _SECRET),
    ],
)
def test_no_names_of_repositories(config, name, says):
    with pytest.raises(UserError) as error:
        push.destination(config, name)
    assert says in str(error.value)
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"revision": "a..b"}, "--revision: 'a..b' is no name of a branch"),
        ({"revision": "refs/heads/x"}, "--revision: 'refs/heads/x' is no name of a branch"),
        ({"revision": "v1", "pull": True}, "--pr: a pull request goes to the branch main, not to 'v1'"),
        ({"repository": None, "pull": True}, "--pr: nothing is pushed; name a repository with --push ORG/NAME"),
        ({"repository": None, "private": True}, "--private: nothing is pushed"),
    ],
)
def test_options_that_make_no_sense(config, options, says):
    with pytest.raises(UserError, match=re.escape(says)):
        push.destination(config, **{"repository": REPO, **options})


def test_the_folder_may_stand_among_the_options(run, hub, capsys):
    assert main(["export", "--push", REPO, "--dry-run", str(run.root), "--private"]) == 0
    assert f"{REPO}, private: --dry-run, nothing is sent" in capsys.readouterr().out
    assert not hub.addresses


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--push", f"org/{TOKEN}"], _SECRET),
        (["--dry-run"], "--dry-run: nothing is pushed; name a repository"),
        (["--push"], "argument --push: expected one argument"),
        (["--push", REPO, "--config", "c.yaml"], "and --config; name the job's folder or its file, not both"),
    ],
)
def test_slips_in_the_words_leave_nothing(run, hub, capsys, more, says):
    before = jobs.hashes(run.root)
    assert main(["export", str(run.root), *more]) == 2
    assert says in only_error(capsys)
    assert not hub.addresses
    nothing_tells_the_token(run.root, says)
    assert jobs.hashes(run.root) == before


def test_no_job_and_no_words(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert "no job's folder, it holds no config.yaml" in only_error(capsys)
    assert main(["export"]) == 2
    assert "name a job's folder, or --config FILE" in only_error(capsys)
    assert main(["export", "--help"]) == 0
    assert "bgetune export RUN [--push ORG/NAME]" in capsys.readouterr().out


@pytest.mark.parametrize(("token", "says"), [("", "there is no token"), ("hf_with space inside", "spaces or other")])
def test_the_token_is_missing_or_none(run, hub, capsys, monkeypatch, token, says):
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(words(run)) == 2
    error = only_error(capsys)
    assert says in error
    assert "hf_with" not in error
    assert not hub.addresses


def test_a_file_that_changes_meanwhile(run, config, hub, monkeypatch):
    honest = push_hub.Hub.commit

    def slow(self, branch, folder, *rest, **options):
        if branch == "main":
            (folder / "model.safetensors").write_bytes(b"another")
        return honest(self, branch, folder, *rest, **options)

    monkeypatch.setattr(push_hub.Hub, "commit", slow)
    code, line = pushed(config, run)
    assert code == 1
    assert "is not what was sent: model.safetensors" in line


def test_a_folder_that_is_not_sealed_is_refused(run):
    write_text(run.root / "export-sparse" / "more.txt", "x")
    with pytest.raises(UserError, match=r"export-sparse: it is not the export that was checked.*--force"):
        push.folders(run, Destination(REPO))
    run.manifest("export").unlink()
    with pytest.raises(UserError, match="it is not the export that was checked"):
        push.folders(run, Destination(REPO))


def test_a_model_that_comes_back_with_other_vectors(run, config, tmp_path):
    with pytest.raises(push_failures.PushFailed, match="has other vectors than"):
        push_check.compared(run.export, tiny.model(tmp_path / "other", seed=9), config)


@pytest.mark.parametrize("lost", [True, False])
def test_a_model_that_comes_back_with_other_heads(config, tmp_path, lost):
    all_heads = tiny.m3(tmp_path / "m3")
    dense = shutil.copytree(all_heads, tmp_path / "dense", ignore=shutil.ignore_patterns("*_linear.pt"))
    ours, theirs = (all_heads, dense) if lost else (dense, all_heads)
    with pytest.raises(push_failures.PushFailed, match=r"has other vectors than .*, by inf"):
        push_check.compared(ours, theirs, config)


def test_the_hub_refuses_the_card(run, config, hub, monkeypatch):
    card = CARD.replace("mit", "no-such")
    (run.export / "README.md").write_text(card)
    monkeypatch.setattr(
        push, "sha256_digests", lambda digests: push.read_json(run.manifest("export"))["outputs"]["export"]
    )
    (run.root / "export-sparse").rename(run.root / "elsewhere")
    monkeypatch.setattr(push, "FORM_FOLDERS", {})
    code, line = pushed(config, run)
    assert code == 2
    assert 'the Hub refuses the card: Invalid metadata in README.md. - "license" must be' in line


def test_as_a_command_in_a_users_environment(run, hub):
    """`HF_ENDPOINT`, `HF_TOKEN` and the client's own settings are read as a user's are, its debug lines included."""
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_VERBOSITY": "debug", "HF_DEBUG": "1"}
    command = [sys.executable, "-m", "bgetune.cli", *words(run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert is_complete(hub, run)
    nothing_tells_the_token(run.root, done.stdout, done.stderr)
