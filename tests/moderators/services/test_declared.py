"""The HTTP moderator that a policy file declares."""

from typing import Any

import pytest

from rerail.errors import ModeratorError
from rerail.moderators import load_moderator
from rerail.moderators.http import HttpModerator, find, parse_path
from rerail.policy import Policy
from rerail.types import Exchange, Message
from tests.moderators.services.wires import KEY, Answer, FakeServer, HttpWire, Request

POLICY = """
name: declared
moderators:
  - name: http
    options:
      url: {url}/v2/classify
      method: PUT
      headers: {{Authorization: "Bearer ${{CLASSIFIER_KEY}}", X-Tenant: blue}}
      request: {{text: "{{answer}}", about: ["asked: {{prompt}}"], strict: true, n: 3}}
      scores:
        hate: 'labels["hate/any"]'
        illicit: ["found[?name=crime].score", "found[1].score"]
        custom/brand: brand
      divide_by: 100
"""


class AnyWire(HttpWire):
    def accepts(self, request: Request) -> bool:
        return True


def test_a_declared_service(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {
        "labels": {"hate/any": 7},
        "found": [{"name": "crime", "score": 20}, {"name": "guns", "score": 31.0}],
        "brand": 100,
    }
    asked = (Message("user", "who are you?"),)
    with FakeServer(AnyWire(), [lambda wire, _: Answer(200, body)]) as server:
        policy = Policy.from_yaml(POLICY.format(url=server.url))
        moderator = load_moderator(policy)
        assert isinstance(moderator, HttpModerator)
        with moderator:
            # A text that looks like a placeholder or a variable is a text.
            (verdict,) = moderator.score([Exchange(asked, "I am {prompt} ${HOME}")])
    assert verdict.categories == pytest.approx({"hate": 0.07, "illicit": 0.31, "custom/brand": 1.0})
    assert list(verdict.categories) == ["hate", "illicit", "custom/brand"]
    (request,) = server.requests
    assert (request.method, request.path) == ("PUT", "/v2/classify")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-tenant"] == "blue"
    assert request.body == {
        "text": "I am {prompt} ${HOME}",
        "about": ["asked: who are you?"],
        "strict": True,
        "n": 3,
    }


def test_a_list_of_texts() -> None:
    wire = AnyWire()

    def scores(wire: Any, body: Any) -> Answer:
        return Answer(200, {"out": [[len(text), 0] for text in body["inputs"]]})

    with FakeServer(wire, [scores]) as server:
        moderator = HttpModerator(
            url=server.url,
            request={"inputs": "{texts}"},
            results="out",
            scores={"hate": "[0]"},
            divide_by=10,
            batch_size=2,
        )
        with moderator:
            verdicts = moderator.score([Exchange((), "x" * n) for n in (1, 5, 9)])
    assert [verdict.categories["hate"] for verdict in verdicts] == [0.1, 0.5, 0.9]
    assert sorted(len(request.body["inputs"]) for request in server.requests) == [1, 2]


def test_a_conversation_and_prompt_and_answer_as_one_text() -> None:
    wire = AnyWire()
    options = {"request": {"m": "{turns}", "t": "{text}"}, "scores": {"hate": "h"}}
    asked = Exchange((Message("user", "who?"),), "me {text}")
    answer = {"role": "assistant", "content": "me {text}"}
    with FakeServer(wire, [lambda *_: Answer(200, {"h": 0.5})]) as server:
        for include in (False, True):
            with HttpModerator(url=server.url, include_prompt=include, **options) as moderator:
                assert moderator.score([asked])[0].categories == {"hate": 0.5}
    assert [request.body for request in server.requests] == [
        {"m": [answer], "t": "me {text}"},
        {"m": [{"role": "user", "content": "who?"}, answer], "t": "who?\n\nme {text}"},
    ]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", {"b": [1, {"c/d": 2}], "e f": 3}),
        ("$.a.b[0]", 1),
        ("$a.b[1].c/d", 2),
        ('a["e f"]', 3),
        ("a.b[7]", None),
        ("a.x.y", None),
        ("list[?n=two].v", 22),
        ('list[?n="two words"].v', 23),
        ("list[?n=four].v", None),
    ],
)
def test_paths(path: str, found: object) -> None:
    value = {
        "a": {"b": [1, {"c/d": 2}], "e f": 3},
        "list": [{"n": "one", "v": 21}, {"n": "two", "v": 22}, {"n": "two words", "v": 23}],
    }
    assert find(value, parse_path(path)) == found


@pytest.mark.parametrize("path", ["", "$", "a b", "a[", "a[x]", "a..b", "a[-1]", 'a["]', "a."])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ModeratorError, match="not a path"):
        parse_path(path)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"request": {"text": "fixed"}}, "nothing would be judged"),
    ({"request": {"texts": "{texts}"}}, "'results' belongs"),
    ({"results": "out"}, "'results' belongs"),
    ({"item": {"text": "{answer}"}}, "'item' belongs"),
    ({"request": {"x": "{items}"}, "results": "out"}, "'item' belongs"),
    ({"item": {"x": "{items}", "y": "{answer}"}, "results": "out"}, "'results' belongs"),
    (
        {"request": "{items}", "item": {"x": "{items}", "y": "{answer}"}, "results": "out"},
        "'item' belongs",
    ),
    (
        {"request": ["{items}", "{answer}"], "item": {"n": "{id}"}, "results": "out"},
        "nothing would be judged",
    ),
    ({"scores": ["hate"]}, "rejects its options"),
    ({"scores": {"hate": "a..b"}}, "not a path"),
    ({"scores": {"hat": "a"}}, "did you mean 'hate'"),
    ({"scores": {}}, "at least one"),
    ({"scores": {"hate": "a", "illicit": ["b", "a"]}}, "stands for two categories"),
    ({"headers": {"Authorization": "Bearer abc"}}, r"write \$\{NAME\}"),
    ({"headers": {"X-Api-Key": "abc"}}, r"write \$\{NAME\}"),
    ({"headers": {"X-Auth": "abc"}}, r"write \$\{NAME\}"),
    ({"headers": {"X-Api-Key": "${NOT_SET}"}}, "set the environment variable NOT_SET"),
    ({"headers": {"X-Api-Key": "${not a name}"}}, "the name of an environment variable"),
    ({"divide_by": 0}, "'divide_by'"),
    ({"divide_by": "100"}, "'divide_by'"),
    ({"url": "classify"}, "not a URL"),
    ({"url": "me:abc@host/x"}, "not a URL"),
    ({"url": "https://host:port/x"}, "not a URL"),
    ({"deadlin": 3}, "did you mean 'deadline'"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=lambda value: str(value)[:40])
def test_faults_are_found_when_the_policy_is_loaded(fault: dict[str, Any], message: str) -> None:
    options = {"url": "https://h", "request": {"text": "{answer}"}, "scores": {"hate": "h"}}
    policy = Policy(name="p", moderators=({"name": "http", "options": {**options, **fault}},))
    with pytest.raises(ModeratorError, match=message) as info:
        load_moderator(policy)
    assert "abc" not in str(info.value)
