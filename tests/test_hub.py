"""Checkpoints from and to a Hub: huggingface_hub's own client against a real server, with faults."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client
from local_hub import READER, TOKEN, LocalHub, Repository
from test_checkpoint import FILES, one_line, toy_model
from toy_backbone import ToyBackbone

from hip_ext import HessianModel, from_pretrained
from hip_ext.checkpoint.finding import find_checkpoint
from hip_ext.errors import CheckpointError, HubError
from hip_ext.hub import HubOptions, is_repository, repository_and_revision

LOAD = """
import hashlib
from hip_ext import from_pretrained
from toy_backbone import ToyBackbone
model = from_pretrained({name!r}, backbone=ToyBackbone(), **{options!r})
result = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.head.state_dict().values())).hexdigest()
"""
PUSH = """
from test_checkpoint import toy_model
result = toy_model(seed={seed}).push_to_hub({name!r}, **{options!r})
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory) -> Iterator[Client]:
    client = Client(hub.endpoint, tmp_path_factory.mktemp("home"), HF_HUB_DOWNLOAD_TIMEOUT="5")
    client.run("from hip_ext.hub import download\ndownload.WAITS = (0.1, 0.1)")
    yield client
    client.close()


@pytest.fixture(scope="module")
def other(hub, tmp_path_factory) -> Iterator[Client]:
    """A second process, with a token of its own."""
    client = Client(hub.endpoint, tmp_path_factory.mktemp("other"), HF_TOKEN=TOKEN)
    yield client
    client.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("saved") / "head"
    toy_model().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def name(hub, checkpoint) -> str:
    """A repository with a checkpoint, and much else that is nobody's business."""
    name = f"me/head-{uuid.uuid4().hex[:8]}"
    repository = hub.repositories[name] = Repository()
    repository.commit({**checkpoint, "pytorch_model.bin": b"a pickle", "notes.txt": b"n" * 1000})
    hub.requests.clear()
    return name


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


def digest(model: HessianModel) -> str:
    import hashlib

    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.head.state_dict().values())).hexdigest()


def load(client: Client, name: str, **options: Any) -> dict[str, Any]:
    return client.run(LOAD.format(name=name, options=options))


def refused(client: Client, name: str, **options: Any) -> str:
    found = load(client, name, **options)
    assert "HubError" in found["error"] and "CheckpointError" in found["error"], found
    message = found["message"]
    assert message and "\n" not in message and len(message) < 700
    return message


def files_in(cache: str) -> set[str]:
    return {path.name for path in Path(cache).rglob("snapshots/*/*")}


def blobs_in(cache: str) -> list[Path]:
    return [path for path in Path(cache).rglob("blobs/*") if path.suffix != ".incomplete"]


# Reading


def test_only_the_files_of_a_checkpoint_are_fetched(hub, client, name, cache):
    assert load(client, name, cache_dir=cache)["result"] == digest(toy_model())
    assert files_in(cache) == {"config.json", "model.safetensors"}
    assert {path.rpartition("/")[2] for _, path, _ in hub.seen("/resolve/")} == {"config.json", "model.safetensors"}
    agents = {headers["user-agent"].partition(";")[0] for _, _, headers in hub.seen("/resolve/main/config.json")}
    assert all(agent.startswith("hip-ext/") for agent in agents)


def test_a_second_time_little_is_asked_and_nothing_fetched(hub, client, name, cache):
    load(client, name, cache_dir=cache)
    commit = hub.repositories[name].refs["main"]
    hub.requests.clear()
    assert "result" in load(client, name, cache_dir=cache)
    assert {method for method, _, _ in hub.requests} == {"HEAD"}
    hub.requests.clear()
    assert "result" in load(client, name, cache_dir=cache, revision=commit)
    assert "result" in load(client, f"{name}@{commit}", cache_dir=cache)
    assert "result" in load(client, name, cache_dir=cache, local_files_only=True)
    assert hub.requests == []


def test_revisions(hub, client, name, cache, tmp_path):
    first = hub.repositories[name].refs["main"]
    toy_model(seed=1).save_pretrained(tmp_path / "second")
    second = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    hub.repositories[name].commit(second)
    hub.repositories[name].refs["v1.0"] = first
    for revision, seed in ((None, 1), ("main", 1), ("v1.0", 0), (first, 0)):
        assert load(client, name, cache_dir=cache, revision=revision)["result"] == digest(toy_model(seed=seed))
    assert "has no revision 'v2.0'" in refused(client, name, cache_dir=cache, revision="v2.0")
    assert "has no revision" in refused(client, f"{name}@{'0' * 40}", cache_dir=cache)


def test_a_branch_that_moves_on_meanwhile_gives_no_mixture(hub, client, name, cache, tmp_path):
    toy_model(seed=1).save_pretrained(tmp_path / "second")
    second = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    with hub.fault("GET .*/config.json", "stall") as fault:
        client.send(LOAD.format(name=name, options={"cache_dir": cache}))
        assert fault.reached.wait(60)
        hub.repositories[name].commit(second)
        fault.released.set()
        found = client.receive()
    assert found["result"] in {digest(toy_model(seed=seed)) for seed in (0, 1)}
    assert load(client, name, cache_dir=cache)["result"] == digest(toy_model(seed=1))


@pytest.mark.parametrize("how", ["missing", "private", "gated", "gated to this user", "token"])
def test_what_may_not_be_read(hub, client, name, cache, how):
    if how == "missing":
        assert "there is no repository" in refused(client, f"{name}-not", cache_dir=cache)
    elif how == "private":
        hub.repositories[name].private = True
        assert "'hf auth login'" in refused(client, name, cache_dir=cache)
        assert "result" in load(client, name, cache_dir=cache, token=READER)
    elif how == "token":
        message = refused(client, name, cache_dir=cache, token="hf_wrong")
        assert "no permission" in message and "hf_wrong" not in message
    else:
        hub.repositories[name].gated = True
        message = refused(client, name, cache_dir=cache, token=READER if "user" in how else False)
        assert f"is gated: ask for access at {hub.endpoint}/{name}" in message
        assert "result" in load(client, name, cache_dir=cache, token=TOKEN)


def test_tokens_do_not_leave_the_hub(hub, client, name, cache):
    hub.repositories[name].private = True
    assert "result" in load(client, name, cache_dir=cache, token=TOKEN)
    with_token = {path.count("/") > 1 for _, path, headers in hub.requests if "authorization" in headers}
    assert with_token == {True}
    assert len(hub.seen(r"GET /[0-9a-f]{64}$")) == 1


def test_gated_later_is_not_read_from_the_cache_behind_its_back(hub, client, name, cache):
    load(client, name, cache_dir=cache)
    hub.repositories[name].gated = True
    assert "is gated" in refused(client, name, cache_dir=cache)
    assert "result" in load(client, name, cache_dir=cache, local_files_only=True)


def test_repositories_that_hold_something_else(hub, client, name, cache, checkpoint):
    hub.repositories[name].commit({"notes.txt": b"n"})
    assert "is not a checkpoint: it has no config.json" in refused(client, name, cache_dir=cache)
    hub.repositories[name].commit({"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"})
    found = load(client, name, cache_dir=cache)
    assert name in found["message"] and "its 'format' is not" in found["message"]
    assert files_in(cache) == {"config.json"}
    hub.repositories[name].commit({"config.json": checkpoint["config.json"]})
    assert "it has no model.safetensors" in refused(client, name, cache_dir=cache)


# Faults


def test_a_dropped_connection_is_resumed_where_it_broke(hub, client, name, cache):
    # The client counts what it has received in chunks of 10 MB, which are more than a head has.
    client.run("from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = 512")
    with hub.fault(r"GET /[0-9a-f]{64}$", "drop", times=2):
        assert load(client, name, cache_dir=cache)["result"] == digest(toy_model())
    ranges = [headers.get("range") for _, _, headers in hub.seen(r"GET /[0-9a-f]{64}$")]
    assert len(ranges) == 3 and ranges[0] is None and all(one.startswith("bytes=") for one in ranges[1:])


HEADS = ("HEAD .*/main/config.json", "HEAD .*/model.safetensors")
BUSY = [(where, status) for where in HEADS for status in (429, 500, 503)]


@pytest.mark.parametrize(("where", "status"), [*BUSY, (r"GET /[0-9a-f]{64}$", 429)])
def test_a_busy_server_is_asked_again(hub, client, name, cache, where, status):
    with hub.fault(where, status, Retry_After="0") as fault:
        assert load(client, name, cache_dir=cache)["result"] == digest(toy_model())
        assert fault.seen == 1


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_stays_busy(hub, client, name, cache, status):
    with hub.fault("HEAD .*/main/config.json", status, times=99) as fault:
        assert f"could not serve {name} (HTTP {status}): try again later" in refused(client, name, cache_dir=cache)
        assert fault.seen >= 3
    load(client, name, cache_dir=cache)
    with hub.fault("HEAD", status, times=99):
        assert "result" in load(client, name, cache_dir=cache)


def test_data_that_cannot_be_had(hub, client, name, cache):
    with hub.fault(r"GET /[0-9a-f]{64}$", 500, times=99):
        assert "HTTP 500" in refused(client, name, cache_dir=cache)
    assert "result" in load(client, name, cache_dir=cache)


@pytest.mark.parametrize("file", ["config.json", r"[0-9a-f]{64}$"])
@pytest.mark.parametrize("kind", ["short", "spoil"])
def test_files_of_a_wrong_size_or_a_wrong_hash_are_not_kept(hub, client, name, cache, file, kind):
    with hub.fault(f"GET .*{file}", kind):
        assert load(client, name, cache_dir=f"{cache}-once")["result"] == digest(toy_model())
    with hub.fault(f"GET .*{file}", kind, times=99) as fault:
        message = refused(client, name, cache_dir=cache)
        assert fault.seen == 3
    assert ("came damaged" if kind == "spoil" else "should be of size") in message
    assert load(client, name, cache_dir=cache)["result"] == digest(toy_model())


def test_a_file_that_is_too_large_is_not_fetched(hub, client, name, cache):
    for file in ("config.json", "model.safetensors"):
        with hub.fault(f"HEAD .*/{file}", "huge", times=9):
            assert f"{file} of {name} is {1 << 40} bytes long" in refused(client, name, cache_dir=cache)
        assert hub.seen(f"GET .*{file}") == []


@pytest.mark.parametrize("kind", ["etag", "commit"])
def test_digests_that_are_paths_lead_nowhere(hub, client, name, cache, kind):
    with hub.fault("HEAD .*/config.json", kind, times=9):
        assert "does not answer as a Hub does" in refused(client, name, cache_dir=cache)
    assert not Path(cache).exists()
    assert not list(Path(cache).parent.rglob("escaped"))


def test_a_server_that_is_no_hub(hub, tmp_path, name):
    hub.others["api/anything"] = b"x"
    elsewhere = Client(hub.files, tmp_path / "home")
    try:
        assert "there is no" in refused(elsewhere, name) or "could not be fetched" in refused(elsewhere, name)
    finally:
        elsewhere.close()


def test_no_network_and_offline_mode(hub, client, name, tmp_path):
    cache = str(tmp_path / "cache")
    load(client, name, cache_dir=cache)
    away = Client("http://127.0.0.1:9", tmp_path / "away")
    offline = Client(hub.endpoint, tmp_path / "offline", HF_HUB_OFFLINE="1")
    try:
        assert load(away, name, cache_dir=cache)["result"] == digest(toy_model())
        message = refused(away, f"{name}-not", cache_dir=cache)
        assert "http://127.0.0.1:9 cannot be reached" in message and "check the network" in message
        assert "cannot be reached" in away.run(PUSH.format(seed=0, name=name, options={"token": TOKEN}))["message"]
        hub.requests.clear()
        assert load(offline, name, cache_dir=cache)["result"] == digest(toy_model())
        assert "unset HF_HUB_OFFLINE" in refused(offline, f"{name}-not", cache_dir=cache)
        assert "offline mode is on" in offline.run(PUSH.format(seed=0, name=name, options={}))["message"]
        assert "leave out local_files_only" in refused(client, f"{name}-not", cache_dir=cache, local_files_only=True)
        assert hub.requests == []
    finally:
        away.close()
        offline.close()


def test_two_processes_at_once(hub, client, other, name, cache):
    with hub.fault(r"GET /[0-9a-f]{64}$", "stall") as fault:
        for one in (client, other):
            one.send(LOAD.format(name=name, options={"cache_dir": cache}))
        assert fault.reached.wait(60)
        fault.released.set()
        assert {one.receive()["result"] for one in (client, other)} == {digest(toy_model())}
    assert len(blobs_in(cache)) == 2 and not list(Path(cache).rglob("*.incomplete"))


def test_a_kill_in_the_middle_leaves_a_usable_cache(hub, client, name, cache, tmp_path):
    victim = Client(hub.endpoint, tmp_path / "victim")
    with hub.fault(r"GET /[0-9a-f]{64}$", "stall") as fault:
        victim.send(LOAD.format(name=name, options={"cache_dir": cache}))
        assert fault.reached.wait(120)
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.close()
    assert files_in(cache) == {"config.json"}
    assert "model.safetensors" in refused(client, name, cache_dir=cache, local_files_only=True)
    assert load(client, name, cache_dir=cache)["result"] == digest(toy_model())
    assert load(client, name, cache_dir=cache, local_files_only=True)["result"] == digest(toy_model())


def test_progress_is_shown_on_stderr(hub, name, cache, tmp_path):
    watched = Client(hub.endpoint, tmp_path / "watched", TQDM_POSITION="-1")  # as on a terminal
    try:
        load(watched, name, cache_dir=cache)
    finally:
        watched.close()
    assert "100%" in watched.log.read_text()


# The cache's own links


def test_blobs_that_repositories_share_are_read(hub, client, name, cache, checkpoint):
    """As with Xet, whose files huggingface_hub keeps once for all repositories."""
    load(client, name, cache_dir=cache)
    moved = client.result(
        f"""
from pathlib import Path
shared = __import__("importlib").util.find_spec("huggingface_hub.utils._shared_blobs")
if shared is not None:
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store
    (blob,) = (path for path in Path({cache!r}).rglob("blobs/*") if len(path.name) == 64)
    result = publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash="ab" * 32, cache_dir={cache!r}, expected_size=blob.stat().st_size
    )
"""
    )
    if moved is None:
        pytest.skip("this version of huggingface_hub shares no blobs")
    assert moved is True
    (link,) = Path(cache).rglob("snapshots/*/model.safetensors")
    assert link.resolve() == Path(cache).resolve() / "blobs" / "ab" / ("ab" * 32)
    assert load(client, name, cache_dir=cache, local_files_only=True)["result"] == digest(toy_model())
    blob = link.parent / link.readlink()
    blob.unlink()
    (Path(cache) / "elsewhere").write_bytes(checkpoint["model.safetensors"])
    blob.symlink_to(Path(cache) / "elsewhere")
    found = load(client, name, cache_dir=cache, local_files_only=True)
    assert "is a symbolic link, which is not followed" in found["message"]


# Writing


def test_what_was_pushed_is_what_a_fresh_process_loads(hub, client, other, cache, tmp_path):
    name = f"me/pushed-{uuid.uuid4().hex[:8]}"
    first = other.result(PUSH.format(seed=7, name=name, options={"private": True, "commit_message": "the first"}))
    second = other.result(PUSH.format(seed=8, name=name, options={}))
    repository = hub.repositories[name]
    assert repository.private and repository.refs["main"] == second
    assert set(repository.commits[second]) == FILES | {".gitattributes"}
    assert f'from_pretrained("{name}", backbone=backbone)' in repository.commits[second]["README.md"].decode()
    assert len(hub.seen("PUT /lfs/")) >= 2 and hub.seen("POST /lfs/verify")
    fresh = Client(hub.endpoint, tmp_path / "fresh", HF_TOKEN=READER)
    try:
        for revision, seed in ((first, 7), (second, 8), (None, 8)):
            assert load(fresh, name, cache_dir=cache, revision=revision)["result"] == digest(toy_model(seed=seed))
    finally:
        fresh.close()
    assert other.result(f"from huggingface_hub import model_info\nresult = model_info({name!r}).sha") == second
    assert "there is no repository" in refused(client, name, cache_dir=cache)


def test_branches_and_proposals(hub, other, name, cache):
    main = hub.repositories[name].refs["main"]
    commit = other.result(PUSH.format(seed=1, name=name, options={"revision": "trial"}))
    assert hub.repositories[name].refs == {"main": main, "trial": commit}
    proposed = other.result(PUSH.format(seed=2, name=name, options={"create_pr": True}))
    assert hub.repositories[name].refs["main"] == main
    assert load(other, name, cache_dir=cache, revision="trial")["result"] == digest(toy_model(seed=1))
    assert load(other, name, cache_dir=cache, revision=proposed)["result"] == digest(toy_model(seed=2))


def test_a_tuned_backbone_goes_along_and_vanishes_with_its_head(hub, other, cache):
    name = f"me/tuned-{uuid.uuid4().hex[:8]}"
    tuned = """
import copy, torch
from hip_ext import HessianModel, attach_head
from hip_ext.checkpoint import Tuning
from test_checkpoint import SMALL
from toy_backbone import ToyBackbone
base = ToyBackbone()
changed = copy.deepcopy(base)
with torch.no_grad():
    changed.model.depth.mul_(1.01)
model = HessianModel(changed, attach_head(changed, SMALL).head, tuning=Tuning.between(base, changed))
"""
    other.result(f"{tuned}result = model.push_to_hub({name!r})")
    latest = hub.repositories[name].commits[hub.repositories[name].refs["main"]]
    assert set(latest) == FILES | {"backbone.safetensors", ".gitattributes"}
    assert "result" in load(other, name, cache_dir=cache)
    assert files_in(cache) == {"config.json", "model.safetensors", "backbone.safetensors"}
    other.result(PUSH.format(seed=0, name=name, options={}))
    latest = hub.repositories[name].commits[hub.repositories[name].refs["main"]]
    assert set(latest) == FILES | {".gitattributes"}


def push_refused(client: Client, name: str, **options: Any) -> str:
    found = client.run(PUSH.format(seed=3, name=name, options=options))
    assert "HubError" in found["error"], found
    assert "\n" not in found["message"]
    return found["message"]


def test_where_nobody_may_push(hub, client, other, name):
    before = dict(hub.repositories[name].refs)
    for token in (False, READER, "hf_wrong"):
        message = push_refused(client, name, token=token)
        assert "'hf auth login'" in message and str(token) not in message.replace("hf auth", "")
    hub.repositories[name].commit({"config.json": b'{"model_type": "bert"}'}, "other-model")
    assert "choose another repository" in push_refused(other, name, revision="other-model")
    for fault in (500, 429):
        with hub.fault("POST .*/commit/", fault):
            assert f"HTTP {fault}" in push_refused(other, name)
    assert before == {branch: hub.repositories[name].refs[branch] for branch in before}


def test_uploads_are_tried_again(hub, other, name):
    with hub.fault("PUT /lfs/", 503):
        other.result(PUSH.format(seed=4, name=name, options={}))
    latest = hub.repositories[name].commits[hub.repositories[name].refs["main"]]
    assert json.loads(latest["config.json"])["format"] == "hip-ext head"


# Names


HOSTILE = [
    "me", "", "/", "me/", "/head", "me/a/b", "../head", "me/..", "me/../../etc", "./me/head", "~/head", "me/he ad",
    "me\\head", "me/head\n", "me/he\0ad", "me/head?x=1", "me/head#main", "me/%2e%2e", "http://me/head", "me/h--ead",
    "me/head.git", "-me/head", "me/.head", "mé/head", "me/" + "h" * 97, "me/head@@", "datasets/me/head", "me//head",
    "me/head@../x", "me/head@", "me/head@a..b", "me/head@/main", "me/head@a\nb", "me/head@-f", "C:/head/x",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_reach_no_server_and_no_cache(name, tmp_path):
    with pytest.raises(CheckpointError) as error:
        from_pretrained(name, backbone=ToyBackbone(), cache_dir=tmp_path)
    one_line(error)
    with pytest.raises(HubError) as error:
        toy_model().push_to_hub(name)
    one_line(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "revision", ["", "..", "../../x", "a/../b", "/main", "-x", "a b", "a\0", "é", "x" * 300, 7, "a.lock"]
)
def test_hostile_revisions(revision, tmp_path):
    with pytest.raises(HubError, match="cannot be a revision"):
        from_pretrained("me/head", backbone=ToyBackbone(), cache_dir=tmp_path, revision=revision)
    assert list(tmp_path.iterdir()) == []


def test_names_and_revisions_as_they_should_be():
    assert repository_and_revision("me/head") == ("me/head", "main")
    assert repository_and_revision("Me-2/a_b.c", "refs/pr/1") == ("Me-2/a_b.c", "refs/pr/1")
    assert repository_and_revision("m/h@v1.0+cpu", "v1.0+cpu") == ("m/h", "v1.0+cpu")
    with pytest.raises(HubError, match="two revisions"):
        repository_and_revision("m/h@a", "b")
    with pytest.raises(HubError, match="cannot be a revision"):
        find_checkpoint("m/h@a..b")
    with pytest.raises(CheckpointError, match="is empty"):
        find_checkpoint("")
    assert not is_repository(Path("me/head")) and not is_repository(7)
    assert "secret" not in repr(HubOptions(token="secret"))


def test_a_folder_is_never_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_model().save_pretrained("me/head")
    assert from_pretrained("me/head", backbone=ToyBackbone()).elements == [1, 8]
    with pytest.raises(CheckpointError, match="is a folder, which has no revisions"):
        from_pretrained("me/head", backbone=ToyBackbone(), revision="main")
