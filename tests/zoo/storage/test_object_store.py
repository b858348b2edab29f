"""Object stores by fsspec: text from a URL, a mirrored run folder; in memory, in a folder, and on a real server."""

import json
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from training import Killed, arguments, interrupt_at, outcome, train, wait_for, write_corpus

from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.sources import resolve_sources
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from zoo.errors import ZooError
from zoo.storage.object_store import RunMirror


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def s3():
    """A real server that speaks S3, moto's, and a client that finds it."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "any")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "any")

    def answers():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_for(answers, process=server)
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    patch.undo()
    server.terminate()
    server.wait()


@pytest.fixture(params=["memory", "file", "s3"])
def store(request, tmp_path):
    """A place of its own on each kind of store."""
    own = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{own}"
    return f"memory://{own}" if request.param == "memory" else f"file://{tmp_path}/{own}"


def put(url, text):
    with fsspec.open(url, "w", encoding="utf-8") as stream:
        stream.write(text)


def listed(url):
    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return sorted(name[len(path) :].lstrip("/") for name in system.find(path))


def test_text_is_read_from_a_file_a_folder_and_a_glob(store):
    fsspec.core.url_to_fs(store)[0].makedirs(fsspec.core.url_to_fs(store)[1] + "/texts", exist_ok=True)
    put(f"{store}/texts/b.txt", "Second.\n")
    put(f"{store}/texts/a.txt", "First.\n")
    put(f"{store}/texts/notes.md", "Not read.\n")

    def texts(entry):
        return [Path(source.path).read_text(encoding="utf-8") for source in resolve_sources(CorpusConfig(files=entry))]

    assert texts(f"{store}/texts/b.txt") == ["Second.\n"]
    assert texts(f"{store}/texts") == texts(f"{store}/texts/*.txt") == ["First.\n", "Second.\n"]
    put(f"{store}/texts/a.txt", "Another first one.\n")
    assert texts(f"{store}/texts/a.txt") == ["Another first one.\n"]
    with pytest.raises(ZooError, match=r"corpus.files: .*(does not exist|nothing readable)"):
        texts(f"{store}/texts/c.txt")


def test_a_run_goes_on_from_its_mirror_on_another_machine(store, tmp_path, monkeypatch):
    """The first folder is lost after a kill; what ends is what an undisturbed run ends with, bit for bit."""
    write_corpus(tmp_path)
    argv = arguments(tmp_path, "gpt", steps=8, **{"train.validate_every": 4})
    whole = outcome(train([*argv, "--output", str(tmp_path / "whole")]))
    first, second = ([*argv, "--mirror", store, "--output", str(tmp_path / name)] for name in ("first", "second"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 7)
        train(first)
    folder = run_folder_of(load_pretrain_config(first))
    mirrored = listed(f"{store}/{folder.name}")
    assert "checkpoints/step-000000006/manifest.json" in mirrored
    assert not any(".probe" in name or ".lock" in name for name in mirrored)
    shutil.rmtree(folder)
    assert outcome(train(second)) == whole
    names = listed(f"{store}/{folder.name}")
    own = run_folder_of(load_pretrain_config(second))
    assert [n for n in names if n.startswith("check")] == sorted(
        str(path.relative_to(own)) for path in (own / "checkpoints").rglob("*.*") if path.is_file()
    )
    shutil.rmtree(own)
    assert outcome(train(second)) == whole  # a finished run is fetched, not trained again
    assert json.loads((own / "run.json").read_text())["finished"]


def test_a_mirror_that_lags_behind_is_left_alone(tmp_path):
    folder, url = tmp_path / "run", f"memory://{uuid.uuid4().hex}"
    for step in (3, 6):
        (folder / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)
        (folder / "checkpoints" / f"step-{step:09d}" / "manifest.json").write_text("{}")
        if step == 3:
            RunMirror(url, folder).push()
    assert not RunMirror(url, folder).restore()
    assert len(list((folder / "checkpoints").iterdir())) == 2


def test_an_object_that_would_lie_outside_of_the_run_folder_is_refused(tmp_path, monkeypatch):
    mirror = RunMirror(f"memory://{uuid.uuid4().hex}", tmp_path / "run")
    evil = f"{mirror.root}/checkpoints/step-000000009/../../../../evil/manifest.json"
    monkeypatch.setattr(mirror.system, "find", lambda root, detail: {evil: {"size": 1}})
    with pytest.raises(ZooError, match=r"has an object '.*evil/manifest.json', which is in no run folder"):
        mirror.restore()
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://bucket", "mirror: nowhere://bucket/run cannot be reached.*nowhere"),
        ("gs://bucket", r"mirror: gs:// needs gcsfs: `pip install gcsfs`"),
    ],
)
def test_a_store_that_cannot_be_reached_is_told(url, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        RunMirror(url, tmp_path / "run")


def test_missing_credentials_are_told_before_work(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    write_corpus(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.filesystem("s3").clear_instance_cache()
    argv = [*arguments(tmp_path, "gpt"), "--mirror", "s3://bucket/runs", "--output", str(tmp_path / "runs")]
    with pytest.raises(ZooError, match=r"mirror: no access to s3://bucket/runs/gpt-tiny-.*AWS_ACCESS_KEY_ID"):
        train(argv)
    with pytest.raises(ZooError, match=r"corpus.files: no access to s3://bucket/a.txt"):
        resolve_sources(CorpusConfig(files="s3://bucket/a.txt"))
    assert not list(tmp_path.rglob("step-*"))
