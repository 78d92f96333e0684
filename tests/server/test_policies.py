"""Policies change while the server runs: whole, at once, with a history."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from rerail.errors import PolicyError
from rerail.kit.schema import policy_schema
from rerail.policy import Policy
from rerail.server.keys import KeyRing, new_key
from rerail.store import Store
from tests.server.conftest import (
    FLAGGED,
    HOPELESS,
    PLAIN,
    POLICIES,
    TULIPS,
    WRAPPED,
    Make,
    Moderators,
    chat,
    until,
)

STRICT = "name: default\nrefusal_message: Not here.\nbudget: {generations: 3}\n"


def put(client: httpx.Client, name: str, text: str) -> str:
    reply = client.put(f"/admin/policies/{name}", json={"yaml": text})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["version"])


def ask(client: httpx.Client, text: str = PLAIN, **more: object) -> dict:
    reply = client.post("/v1/chat/completions", json=chat(text, **more))
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_change_takes_effect_at_the_next_request(client: httpx.Client) -> None:
    before = ask(client, HOPELESS, policy="small")["rerail"]["policy"]["version"]
    text = "name: small\nrefusal_message: Not here.\nbudget: {generations: 3}\n"
    version = put(client, "small", text)
    reply = ask(client, HOPELESS, policy="small")
    assert version != before
    assert reply["rerail"]["policy"] == {"name": "small", "version": version, "audit": False}
    assert reply["choices"][0]["message"]["content"] == "Not here."
    assert reply["rerail"]["cost"]["generations"] == 3


def test_a_steered_answer_is_held_to_accept_below_from_the_next_request_on(serve: Make) -> None:
    between = Moderators(scorer=lambda e: {"illicit": 0.9 if FLAGGED in e.answer else 0.4})
    with httpx.Client(base_url=serve(moderators=between).url, timeout=60) as client:
        for share, outcome, after in ((0.5, "refused", None), (0.8, "steered", 0.8)):
            put(
                client, "small", f"name: small\nbudget: {{generations: 6}}\naccept_below: {share}\n"
            )
            said = ask(client, WRAPPED, policy="small")["rerail"]
            assert (said["outcome"], said["harm_after"]) == (outcome, after)


def test_a_running_request_keeps_its_policy(serve: Make) -> None:
    made = serve(moderators=Moderators(delay=0.5))
    with httpx.Client(base_url=made.url, timeout=60) as client:
        old = client.get("/admin/policies/default").json()["version"]
        replies: list[dict] = []
        running = threading.Thread(target=lambda: replies.append(ask(client)))
        running.start()
        until(lambda: made.engine.generated, "the request is open")
        new = put(client, "default", STRICT)
        running.join(30)
        assert replies[0]["rerail"]["policy"]["version"] == old
        assert ask(client)["rerail"]["policy"]["version"] == new


def test_every_fault_is_named_and_nothing_changes(client: httpx.Client) -> None:
    before = client.get("/admin/policies").json()
    wrong = "name: default\ncolour: red\nbudget: {generations: 0}\ncategories: {hats: 0.5}\n"
    for path, send in (("", client.put), ("/check", client.post)):
        reply = send(f"/admin/policies/default{path}", json={"yaml": wrong})
        assert reply.status_code == 422
        message = reply.json()["error"]["message"]
        assert "unknown key 'colour'" in message
        assert "budget.generations" in message
        assert "unknown category 'hats'" in message
    unknown = client.put("/admin/policies/other", content="name: default\n")
    assert unknown.status_code == 422
    assert "sent as 'other'" in unknown.json()["error"]["message"]
    assert client.get("/admin/policies").json() == before


def test_a_moderator_that_cannot_be_had_is_a_fault_of_the_policy(make: Make) -> None:
    from rerail.server.app import create_app
    from rerail.server.policies import load_moderators

    fake = Policy.from_yaml("name: default\nmoderators: [fake]\n")
    live = create_app({}, [fake], loader=load_moderators).state.service.policies
    with pytest.raises(Exception, match="unknown moderator 'openia'; did you mean 'openai'"):
        live.put("default", "name: default\nmoderators: [openia]\n", "me")
    text = "name: default\nmoderators: [fake]\ncategories: {violence: 0.5}\n"
    with pytest.raises(Exception, match="names category 'violence'"):
        live.put("default", text, "me")
    assert live.get("default").policy == fake


def test_checking_changes_nothing(client: httpx.Client) -> None:
    before = client.get("/admin/policies").json()
    reply = client.post("/admin/policies/default/check", json={"yaml": STRICT})
    assert reply.json() == {"name": "default", "version": Policy.from_yaml(STRICT).version}
    assert client.get("/admin/policies").json() == before


def test_yaml_may_be_sent_as_it_is_and_comes_back_as_it_was(client: httpx.Client) -> None:
    text = "# why it is so\n" + STRICT
    kind = {"Content-Type": "application/yaml"}
    assert client.put("/admin/policies/default", content=text, headers=kind).status_code == 200
    assert client.get("/admin/policies/default").json()["yaml"] == text


def test_shipped_policies_are_shown_as_they_were_written() -> None:
    from rerail.policy import PolicyStore
    from rerail.server.app import create_app
    from tests.server.conftest import engine

    moderators = Moderators(categories=("illicit", "self-harm"))
    app = create_app({"rerail": engine()}, loader=moderators)
    live = app.state.service.policies
    shipped = PolicyStore.shipped()
    assert live.names() == shipped.names()
    for served in live.all():
        assert served.policy == shipped.get(served.policy.name)
        assert Policy.from_yaml(served.yaml) == served.policy
    assert "# The policy that applies when none is named." in live.get("default").yaml


def test_history_and_rollback(client: httpx.Client) -> None:
    first = client.get("/admin/policies/default").json()["version"]
    second = put(client, "default", STRICT)
    back = client.post("/admin/policies/default/rollback", json={"version": first})
    assert back.json() == {"name": "default", "version": first}
    assert ask(client)["rerail"]["policy"]["version"] == first
    history = client.get("/admin/policies/default").json()["history"]
    assert [(h["version"], h["by"], h["action"]) for h in history] == [
        (first, "start", "put"),
        (second, "local", "put"),
        (first, "local", "rollback"),
    ]
    assert history[1]["yaml"] == STRICT
    unknown = client.post("/admin/policies/default/rollback", json={"version": "0" * 12})
    assert unknown.status_code == 404


def test_deleting(client: httpx.Client) -> None:
    assert client.delete("/admin/policies/default").status_code == 409
    assert client.delete("/admin/policies/small").status_code == 200
    assert client.delete("/admin/policies/small").status_code == 404
    gone = client.post("/v1/chat/completions", json=chat(policy="small"))
    assert gone.status_code == 400
    assert "unknown policy 'small'" in gone.json()["error"]["message"]


# Where policies come from, and what stays of them


def test_what_was_put_outlives_the_server(make: Make, tmp_path: Path) -> None:
    folder, database = tmp_path / "policies", tmp_path / "store.sqlite"
    folder.mkdir()
    (folder / "mine.yaml").write_text("name: mine\n")
    first = make(folder=folder, store=Store.open(database)).service.policies
    first.put("default", STRICT, "alice")
    first.put("mine", "name: mine\ndefault_threshold: 0.3\n", "alice")
    assert {file.name for file in folder.iterdir()} == {"mine.yaml", "default.yaml"}
    again = make(folder=folder, store=Store.open(database)).service.policies
    assert again.get("default").policy.refusal_message == "Not here."
    assert again.get("mine").policy.default_threshold == 0.3
    assert [c.by for c in again.history("default")] == ["start", "alice"]
    versions = [c.version for c in again.history("mine")]
    assert again.rollback("mine", versions[0], "bob").version == Policy(name="mine").version
    assert "0.3" not in (folder / "mine.yaml").read_text()


def test_the_folder_is_watched(serve: Make, tmp_path: Path) -> None:
    made = serve(folder=tmp_path)
    live = made.service.policies
    shipped = live.get("default").policy.version
    file = tmp_path / "default.yaml"

    def version() -> str:
        return live.get("default").policy.version

    file.write_text(STRICT)
    until(lambda: version() == Policy.from_yaml(STRICT).version, "the file is taken in")
    file.write_text("name: default\nthreshhold: 0.5\n")
    until(lambda: made.metric("rerail_policy_changes_total", action="rejected"), "it is rejected")
    assert version() == Policy.from_yaml(STRICT).version
    (tmp_path / "new.yaml").write_text("name: brand-new\n")
    until(lambda: "brand-new" in live.names(), "a new policy")
    file.unlink()
    until(lambda: version() == shipped, "back to what it was without the file")
    (tmp_path / "new.yaml").unlink()
    until(lambda: "brand-new" not in live.names(), "the policy is gone with its file")
    assert [c.by for c in live.history("default")][1:] == [
        "file default.yaml",
        "file default.yaml removed",
    ]


def refusal(folder: Path, message: str) -> None:
    """A folder with one policy."""
    folder.mkdir(parents=True)
    (folder / "default.yaml").write_text(f"name: default\nrefusal_message: {message}\n")


def point(link: Path, target: Path) -> None:
    """What ``ln -sfn`` does."""
    new = link.with_name(f"{link.name}-new")
    new.symlink_to(target)
    new.replace(link)


def by_link(root: Path) -> None:
    refusal(root / "b", "new")
    point(root / "link", root / "b")


def by_link_on_the_way(root: Path) -> None:
    refusal(root / "deep" / "b" / "link", "new")
    point(root / "up", root / "deep" / "b")


def by_move(root: Path) -> None:
    (root / "link").rename(root / "old")
    refusal(root / "link", "new")


def by_removal(root: Path) -> None:
    shutil.rmtree(root / "link")
    refusal(root / "link", "new")


def by_config_map(root: Path) -> None:
    """What Kubernetes does to a mounted ConfigMap."""
    refusal(root / "link" / "..2", "new")
    point(root / "link" / "..data", Path("..2"))


@pytest.mark.parametrize(
    "change", [by_link, by_link_on_the_way, by_move, by_removal, by_config_map]
)
def test_a_folder_that_is_replaced_is_seen(serve: Make, tmp_path: Path, change: Any) -> None:
    folder = tmp_path / "link"
    if change is by_link:
        refusal(tmp_path / "a", "old")
        folder.symlink_to(tmp_path / "a")
    elif change is by_link_on_the_way:
        refusal(tmp_path / "deep" / "a" / "link", "old")
        (tmp_path / "up").symlink_to(tmp_path / "deep" / "a")
        folder = tmp_path / "up" / "link"
    elif change is by_config_map:
        refusal(folder / "..1", "old")
        (folder / "..data").symlink_to("..1")
        (folder / "default.yaml").symlink_to("..data/default.yaml")
    else:
        refusal(folder, "old")
    live = serve(folder=folder).service.policies

    def message() -> str:
        return live.get("default").policy.refusal_message

    assert message() == "old"
    change(tmp_path)
    until(lambda: message() == "new", "the new folder is seen")
    (folder / "default.yaml").write_text("name: default\nrefusal_message: newer\n")
    until(lambda: message() == "newer", "and what is changed in it")


def test_a_folder_that_is_gone_leaves_the_policies_and_is_looked_for(
    serve: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "policies"
    refusal(folder, "old")
    made = serve(folder=folder)
    live = made.service.policies
    folder.rename(tmp_path / "away")
    until(lambda: "there is no such folder; the policies stay" in caplog.text, "it is told")
    assert live.get("default").policy.refusal_message == "old"
    assert httpx.get(f"{made.url}/readyz").status_code == 200
    refusal(folder, "new")
    until(lambda: live.get("default").policy.refusal_message == "new", "it is back")
    until(lambda: "can be read again" in caplog.text, "that is told, too")


UNREADABLE = (
    "description: 2026-13-45",
    "audit: !!bool maybe",
    "default_threshold: !!float x",
    "default_threshold: 0b_",
    f"default_threshold: {'9' * 5000}",
    "description: !!timestamp x",
    'description: "\\UFFFFFFFF"',
)
"""Values that a YAML reader chokes on."""


@pytest.mark.parametrize("line", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_file_that_cannot_be_read_is_named_and_the_others_go_on(
    make: Make, tmp_path: Path, line: str
) -> None:
    for name in ("a", "m", "z"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n")
    live = make(folder=tmp_path).service.policies
    before = live.get("m")
    (tmp_path / "m.yaml").write_text(f"name: m\n{line}\n")
    for name in ("a", "z"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nrefusal_message: new\n")
    (fault,) = live.rescan()
    assert fault.startswith(f"{tmp_path / 'm.yaml'}, line 2, column ")
    assert [live.get(name).policy.refusal_message for name in ("a", "z")] == ["new", "new"]
    assert live.get("m") is before
    with pytest.raises(PolicyError, match=r"m\.yaml, line 2, column "):
        make(folder=tmp_path)


@pytest.mark.parametrize("line", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_value_that_cannot_be_read_is_a_422(client: httpx.Client, line: str) -> None:
    text = f"name: default\n{line}\n"
    for reply in (
        client.put("/admin/policies/default", content=text),
        client.post("/admin/policies/default/check", json={"yaml": text}),
    ):
        assert reply.status_code == 422, reply.text
        assert "line 2, column " in reply.json()["error"]["message"]


def test_a_moderator_that_breaks_leaves_the_other_files_alone(make: Make, tmp_path: Path) -> None:
    class Breaking(Moderators):
        def __call__(self, policy):
            if policy.routes:
                raise RuntimeError("quotes something")
            return super().__call__(policy)

    live = make(folder=tmp_path, moderators=Breaking()).service.policies
    (tmp_path / "a.yaml").write_text("name: a\nroutes: {illicit: embedded}\n")
    (tmp_path / "b.yaml").write_text("name: b\n")
    (fault,) = live.rescan()
    assert fault.startswith(f"cannot read policy {tmp_path / 'a.yaml'}: unexpected RuntimeError")
    assert "b" in live.names()


def test_moderators_are_kept_while_thresholds_change(make: Make) -> None:
    loaded = []

    class Counting(Moderators):
        def __call__(self, policy):
            loaded.append(policy.name)
            return super().__call__(policy)

    live = make(moderators=Counting()).service.policies
    count = len(loaded)
    for threshold in (0.1, 0.2, 0.3):
        live.put("default", f"name: default\ndefault_threshold: {threshold}\n", "me")
    assert len(loaded) == count


def test_a_policy_that_cannot_be_written_or_logged_changes_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerail.errors import StoreError

    store = Store.open(tmp_path / "store.sqlite")
    live = make(folder=tmp_path, store=store).service.policies
    before = live.get("default")

    def fails(change: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "note_policy_change", fails)
    with pytest.raises(StoreError):
        live.put("default", STRICT, "me")
    assert live.get("default") is before
    assert not (tmp_path / "default.yaml").exists()


def test_a_policy_whose_removal_cannot_be_done_or_logged_stays(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerail.errors import StoreError

    store = Store.open(tmp_path / "store.sqlite")
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n")
    live = make(folder=tmp_path, store=store).service.policies
    before = live.get("mine")

    def fails(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fails)
        with pytest.raises(StoreError, match=r"cannot delete .*mine.yaml: Permission denied"):
            live.remove("mine", "me")
    assert [change.action for change in live.history("mine")] == ["put"]

    def full(change: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "note_policy_change", full)
    with pytest.raises(StoreError, match="full"):
        live.remove("mine", "me")
    assert live.get("mine") is before
    assert file.read_text() == "name: mine\n"
    assert live.rescan() == []
    assert live.get("mine") is before


def test_a_file_of_another_policy_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    (tmp_path / "strict.yaml").write_text("name: mine\n")
    live = make(folder=tmp_path).service.policies
    with pytest.raises(Exception, match="is not policy 'strict'"):
        live.put("strict", "name: strict\n", "me")
    assert (tmp_path / "strict.yaml").read_text() == "name: mine\n"


# Which one applies


def test_precedence_request_model_server(serve: Make) -> None:
    from rerail.server.settings import ServerSettings

    made = serve(
        settings=ServerSettings(model_policies={"rerail": "strict"}, default_policy="small")
    )
    with httpx.Client(base_url=made.url, timeout=60) as client:
        assert ask(client)["rerail"]["policy"]["name"] == "strict"
        assert ask(client, policy="recorded")["rerail"]["policy"]["name"] == "recorded"
        header = {"X-Rerail-Policy": "recorded"}
        reply = client.post("/v1/chat/completions", json=chat(), headers=header)
        assert reply.json()["rerail"]["policy"]["name"] == "recorded"
        both = client.post("/v1/chat/completions", json=chat(policy="small"), headers=header)
        assert both.status_code == 400
        verdict = client.post("/v1/moderations", json={"input": TULIPS}).json()
        assert verdict["model"].startswith("small@")


def test_models_have_defaults_of_their_own() -> None:
    from starlette.testclient import TestClient

    from rerail.server.app import create_app
    from rerail.server.settings import ServerSettings
    from tests.server.conftest import engine

    engines = {"org/a": engine(name="a"), "b": engine(name="b")}
    app = create_app(
        engines,
        POLICIES,
        loader=Moderators(),
        settings=ServerSettings(model_policies={"org/a": "strict"}),
    )
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1)) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["org/a", "b"]
        assert client.get("/v1/models/org/a").json()["id"] == "org/a"
        for model, policy in (("org/a", "strict"), ("b", "default")):
            reply = client.post("/v1/chat/completions", json={**chat(), "model": model}).json()
            assert reply["model"] == model
            assert reply["rerail"]["policy"]["name"] == policy
    assert [e.generated for e in engines.values()] == [1, 1]


def test_a_default_that_is_missing_stops_the_start(make: Make) -> None:
    from rerail.server.settings import ServerSettings

    with pytest.raises(Exception, match="unknown policy 'strickt'"):
        make(settings=ServerSettings(default_policy="strickt"))


# Under load

CLIENTS, REQUESTS, FLIPS = 32, 2000, 50


def flip(number: int) -> str:
    """Even ones let a score of 0.5 pass, odd ones flag it and say their number."""
    threshold = 0.6 if number % 2 == 0 else 0.4
    return (
        f"name: default\ndefault_threshold: {threshold}\nrefusal_message: flip {number}\n"
        "budget: {generations: 1}\n"
    )


def test_under_load_each_response_is_of_the_version_it_names(serve: Make) -> None:
    made = serve(
        policies=[Policy.from_yaml(flip(0)), *POLICIES[1:]],
        moderators=Moderators(scorer=lambda exchange: {"illicit": 0.5}),
    )
    number_of = {Policy.from_yaml(flip(i)).version: i for i in range(FLIPS + 1)}
    assert len(number_of) == FLIPS + 1
    seen: list[int] = []
    late: list[float] = []

    async def ask_and_check(client: httpx.AsyncClient) -> int:
        reply = (await client.post("/v1/chat/completions", json=chat())).json()
        number = number_of[reply["rerail"]["policy"]["version"]]
        (choice,) = reply["choices"]
        said = TULIPS if number % 2 == 0 else f"flip {number}"
        assert choice["message"]["content"] == said
        assert choice["finish_reason"] == ("stop" if number % 2 == 0 else "content_filter")
        assert choice["rerail"]["policy"]["version"] == reply["rerail"]["policy"]["version"]
        return number

    async def one_client(todo: itertools.count) -> None:
        async with httpx.AsyncClient(base_url=made.url, timeout=60) as client:
            while next(todo) < REQUESTS:
                seen.append(await ask_and_check(client))

    async def load() -> None:
        todo = itertools.count()
        async with (
            httpx.AsyncClient(base_url=made.url, timeout=60) as admin,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(CLIENTS):
                group.create_task(one_client(todo))
            for number in range(1, FLIPS + 1):
                while len(seen) < number * (REQUESTS // (FLIPS + 1)):
                    await asyncio.sleep(0.001)
                reply = await admin.put("/admin/policies/default", content=flip(number))
                assert reply.status_code == 200
                replied = time.monotonic()
                assert await ask_and_check(admin) == number
                late.append(time.monotonic() - replied)

    asyncio.run(load())
    assert len(seen) == REQUESTS
    assert len(set(seen)) > FLIPS / 2
    assert len(late) == FLIPS


def test_an_editor_gets_the_schema_without_a_key(serve: Make, tmp_path: Path) -> None:
    key_file = tmp_path / "keys.yaml"
    new_key(key_file, "somebody")
    made = serve(keys=KeyRing.read(key_file))
    reply = httpx.get(f"{made.url}/v1/policies/schema")
    assert (reply.status_code, reply.json()) == (200, policy_schema())
    assert httpx.get(f"{made.url}/v1/models").status_code == 401
