"""What all services share: splitting, concurrency, the deadline, the breaker, keys, the thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import math
import threading
import time
from email.utils import formatdate

import pytest

from rerail._http import checked_url, duration, rate_limit_pause, retry_after
from rerail._keys import read_key
from rerail.errors import ModeratorError
from rerail.moderators import TimeLimited, load_moderator
from rerail.moderators._http import Settings
from rerail.moderators._wire import ACCESS_DENIED, failure_of
from rerail.policy import Policy
from rerail.types import EMPTY_ANSWER, Exchange, Message
from tests.moderators.services.conditions import set_to, slow, status
from tests.moderators.services.test_conditions import exchanges, expected, made
from tests.moderators.services.wires import (
    KEY,
    KEYS,
    WIRES,
    Answer,
    AzureWire,
    FakeServer,
    HttpWire,
    MistralChatWire,
    MistralWire,
    OpenAIWire,
    PerspectiveWire,
    Wire,
    ok,
)

by_name = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


def texts_of(server: FakeServer) -> list[list[str]]:
    return [server.wire.texts(request.body) for request in server.requests]


class TestSplitting:
    def test_batches_hold_at_most_batch_size_texts_and_verdicts_keep_their_places(self) -> None:
        asked = exchanges(11)
        wire = MistralWire()
        with FakeServer(wire) as server, made(wire, server.url, batch_size=4) as service:
            verdicts = service.score(asked)
            stats = service.stats()
        assert sorted(len(texts) for texts in texts_of(server)) == [3, 4, 4]
        for exchange, verdict in zip(asked, verdicts, strict=True):
            assert verdict.categories == pytest.approx(expected(service, exchange.answer))
        characters = sum(len(exchange.answer) for exchange in asked)
        assert (stats.requests, stats.texts, stats.characters) == (3, 11, characters)
        assert 0 < stats.slowest <= stats.seconds

    def test_batches_hold_at_most_batch_chars_characters(self) -> None:
        asked = [Exchange((), "x" * 90), Exchange((), "y" * 90), Exchange((), "z" * 9)]
        wire = MistralWire()
        with FakeServer(wire) as server, made(wire, server.url, batch_chars=100) as service:
            service.score(asked)
        assert sorted(map(len, texts_of(server))) == [1, 2]

    def test_a_long_answer_is_sent_in_overlapping_pieces_and_the_worst_counts(self) -> None:
        answer = "".join(chr(97 + i % 26) for i in range(1000))
        wire = AzureWire()
        with FakeServer(wire) as server, made(wire, server.url, max_chars=400) as service:
            (verdict,) = service.score([Exchange((), answer)])
        pieces = [texts[0] for texts in texts_of(server)]
        assert sorted(pieces) == sorted([answer[:400], answer[380:780], answer[760:]])
        of_pieces = [expected(service, piece) for piece in pieces]
        worst = {c: max(scores[c] for scores in of_pieces) for c in service.categories}
        assert verdict.categories == pytest.approx(worst)

    @pytest.mark.parametrize("length", [1, 379, 380, 381, 399, 400, 401, 780, 781, 5000])
    def test_pieces_cover_every_character(self, length: int) -> None:
        answer = "".join(chr(0x4E00 + i) for i in range(length))
        with made(HttpWire(), "http://127.0.0.1:9", max_chars=400) as service:
            items = service._items(Exchange((), answer))
        assert set("".join(item.text for item in items)) == set(answer)
        assert all(len(item.text) <= 400 for item in items)

    def test_an_outage_of_one_piece_does_not_hide_that_another_was_denied_access(self) -> None:
        wire, options = AzureWire(), {"max_chars": 400, "attempts": 1, "concurrency": 1}
        steps = [status(500), status(401), ok]
        with FakeServer(wire, steps) as server, made(wire, server.url, **options) as service:
            (verdict,) = service.score([Exchange((), "word " * 200)])
        assert str(verdict.cause).startswith(f"HTTP 500; {ACCESS_DENIED}")

    def test_one_unscored_piece_leaves_the_answer_unscored(self) -> None:
        wire = AzureWire()
        steps = [ok, set_to(None), ok]
        with FakeServer(wire, steps) as server, made(wire, server.url, max_chars=400) as service:
            (verdict,) = service.score([Exchange((), "word " * 200)])
        assert verdict.cause is not None
        assert verdict.cause.startswith("no score for")

    def test_a_rejected_batch_is_halved_until_the_culprit_is_alone(self) -> None:
        asked = exchanges(8)

        def rejects_5(wire: Wire, body: object) -> Answer:
            bad = any(text.endswith(" 5") for text in wire.texts(body))
            return Answer(400, wire.error(400)) if bad else ok(wire, body)

        wire = OpenAIWire()
        with FakeServer(wire, [rejects_5]) as server, made(wire, server.url) as service:
            verdicts = service.score(asked)
        assert [i for i, verdict in enumerate(verdicts) if not verdict.scored] == [5]
        assert [len(texts) for texts in texts_of(server)] == [8, 4, 4, 2, 1, 1, 2]
        assert service.stats().breaker == "closed"

    @by_name
    def test_empty_answers_are_unscored_and_not_sent(self, wire: Wire) -> None:
        with FakeServer(wire) as server, made(wire, server.url) as service:
            verdicts = service.score([Exchange((), " \n"), *exchanges(1), Exchange((), "")])
            assert service.score([]) == []
        assert [verdict.cause for verdict in verdicts] == [EMPTY_ANSWER, None, EMPTY_ANSWER]
        assert len(server.requests) == 1

    @by_name
    def test_any_text_can_be_sent(self, wire: Wire) -> None:
        strange = 'a "quoted" {answer} {prompt} \x00 \ud800 \N{PILE OF POO} ${HOME} </script>'
        with FakeServer(wire) as server, made(wire, server.url) as service:
            (verdict,) = service.score([Exchange((), strange)])
        assert texts_of(server) == [[strange.replace("\ud800", "?")]]
        assert verdict.scored


class TestPrompt:
    asked = (
        Message("user", "the first turn"),
        Message("assistant", "a reply"),
        Message("user", "the last turn"),
    )

    @pytest.mark.parametrize("wire", [OpenAIWire(), AzureWire(), PerspectiveWire()])
    def test_the_last_user_turn_is_prepended_if_asked_for(self, wire: Wire) -> None:
        with FakeServer(wire) as server:
            for include in (False, True):
                with made(wire, server.url, include_prompt=include) as service:
                    service.score([Exchange(self.asked, "the answer")])
        assert texts_of(server) == [["the answer"], ["the last turn\n\nthe answer"]]

    def test_mistral_gets_a_conversation(self) -> None:
        wire = MistralChatWire()
        with FakeServer(wire) as server, made(wire, server.url) as service:
            service.score([Exchange(self.asked, "the answer")])
        assert server.requests[0].body["input"] == [
            [
                {"role": "user", "content": "the last turn"},
                {"role": "assistant", "content": "the answer"},
            ]
        ]

    def test_a_long_prompt_leaves_half_of_the_room_to_the_answer(self) -> None:
        asked = (Message("user", "p" * 999 + "end"),)
        wire = AzureWire()
        with (
            FakeServer(wire) as server,
            made(wire, server.url, max_chars=100, include_prompt=True) as service,
        ):
            service.score([Exchange(asked, "a" * 40)])
        ((text,),) = texts_of(server)
        assert text == "p" * 47 + "end\n\n" + "a" * 40


class TestLimits:
    def test_no_more_requests_at_a_time_than_allowed(self) -> None:
        def briefly(wire: Wire, body: object) -> Answer:
            time.sleep(0.01)
            return ok(wire, body)

        wire = HttpWire()
        with (
            FakeServer(wire, [briefly]) as server,
            made(wire, server.url, concurrency=3) as service,
        ):
            assert all(verdict.scored for verdict in service.score(exchanges(12)))
        assert server.most_under_way == 3

    @by_name
    def test_as_many_requests_at_once_as_allowed_over_connections_that_are_kept(
        self, wire: Wire
    ) -> None:
        together = threading.Barrier(6)

        def at_once(wire: Wire, body: object) -> Answer:
            together.wait(10.0)  # passes only when six requests are here at the same time
            return ok(wire, body)

        options = {"concurrency": 6, "batch_size": 1}
        with FakeServer(wire, [at_once]) as server, made(wire, server.url, **options) as service:
            for _ in range(3):
                assert all(verdict.scored for verdict in service.score(exchanges(6)))
        assert (len(server.requests), server.most_under_way) == (18, 6)
        assert server.connections == 6

    def test_threads_share_the_limit_and_get_their_own_verdicts(self) -> None:
        wire = MistralWire()
        asked = [[Exchange((), f"thread {t} text {i}") for i in range(5)] for t in range(6)]
        with (
            FakeServer(wire) as server,
            made(wire, server.url, concurrency=2) as service,
            concurrent.futures.ThreadPoolExecutor(6) as pool,
        ):
            given = list(pool.map(service.score, asked))
        for of_thread, verdicts in zip(asked, given, strict=True):
            for exchange, verdict in zip(of_thread, verdicts, strict=True):
                assert verdict.categories == pytest.approx(expected(service, exchange.answer))
        assert server.most_under_way <= 2

    def test_the_deadline_is_for_the_whole_call_and_keeps_what_came_before(self) -> None:
        wire = HttpWire()
        with (
            FakeServer(wire, [ok, ok, slow]) as server,
            made(wire, server.url, deadline=0.4, concurrency=1) as service,
        ):
            started = time.monotonic()
            verdicts = service.score(exchanges(6))
            seconds = time.monotonic() - started
        scored = sum(verdict.scored for verdict in verdicts)
        # A busy machine may not have come to the slow request in time.
        assert scored == 2 or (scored < 2 and len(server.requests) < 3)
        assert {verdict.cause for verdict in verdicts[scored:]} == {"no verdict within 0.4 s"}
        assert 0.4 <= seconds < 5

    def test_retries_end_where_the_deadline_does(self) -> None:
        wire = HttpWire()
        with (
            FakeServer(wire, [status(500)]) as server,
            made(wire, server.url, deadline=5.0, backoff=30.0) as service,
        ):
            started = time.monotonic()
            (verdict,) = service.score(exchanges(1))
        assert time.monotonic() - started < 5.0
        assert verdict.cause is not None
        assert verdict.cause.startswith("HTTP 500: ")
        assert verdict.cause.endswith("past the deadline")

    def test_a_429_holds_back_all_requests(self) -> None:
        wire = HttpWire()
        times: list[float] = []

        def timed(wire: Wire, body: object) -> Answer:
            times.append(time.monotonic())
            if len(times) == 1:
                return Answer(429, wire.error(429), {"Retry-After": "0.08"})
            return ok(wire, body)

        with (
            FakeServer(wire, [timed]) as server,
            made(wire, server.url, concurrency=1) as service,
        ):
            assert all(verdict.scored for verdict in service.score(exchanges(4)))
        assert len(times) == 5
        assert times[1] - times[0] >= 0.079

    def test_a_used_up_rate_limit_is_waited_for_before_the_next_request(self) -> None:
        used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "80ms"}
        times: list[float] = []

        def timed(wire: Wire, body: object) -> Answer:
            times.append(time.monotonic())
            return Answer(200, wire.success(body), used_up)

        wire = OpenAIWire()
        with FakeServer(wire, [timed]) as server, made(wire, server.url) as service:
            for _ in range(2):
                assert service.score(exchanges(1))[0].scored
        assert times[1] - times[0] >= 0.079


class TestBreaker:
    def test_it_opens_after_failures_in_a_row_probes_once_and_closes(self) -> None:
        wire = HttpWire()
        options = {"attempts": 1, "breaker_failures": 3, "breaker_seconds": 600.0}
        steps = [status(500)] * 4 + [ok]
        with FakeServer(wire, steps) as server, made(wire, server.url, **options) as service:
            for _ in range(3):
                service.score(exchanges(1))
            assert service.stats().breaker == "open"

            (left_alone,) = service.score(exchanges(1))
            assert len(server.requests) == 3
            assert left_alone.cause == "not asked after 3 failures in a row, the last: HTTP 500"

            service._breaker._closed_until = time.monotonic()
            assert service.score(exchanges(1))[0].cause == "HTTP 500"
            assert (len(server.requests), service.stats().breaker) == (4, "open")

            service._breaker._closed_until = time.monotonic()
            assert service.score(exchanges(1))[0].scored
            assert service.stats().breaker == "closed"

    def test_a_probe_is_one_request_and_the_others_wait_for_another_time(self) -> None:
        wire = HttpWire()
        options = {"attempts": 4, "breaker_failures": 1, "breaker_seconds": 600.0}
        with (
            FakeServer(wire, [status(500)]) as server,
            made(wire, server.url, **options) as service,
        ):
            service.score(exchanges(1))
            assert len(server.requests) == 4
            service._breaker._closed_until = time.monotonic()
            verdicts = service.score(exchanges(5))
        assert len(server.requests) == 5
        assert not any(verdict.scored for verdict in verdicts)

    def test_successes_and_rejections_keep_it_closed(self) -> None:
        wire = HttpWire()
        steps = [status(500), ok, status(500), status(400), status(500), ok]
        options = {"attempts": 1, "breaker_failures": 2}
        with FakeServer(wire, steps) as server, made(wire, server.url, **options) as service:
            for _ in steps:
                service.score(exchanges(1))
            assert service.stats().breaker == "closed"
        assert len(server.requests) == len(steps)

    def test_no_access_stays_no_access_while_it_is_open(self) -> None:
        """A policy that lets unscored answers pass can tell, and must not let these."""
        wire = OpenAIWire()
        with (
            FakeServer(wire, [status(401)]) as server,
            made(wire, server.url, breaker_failures=1) as service,
        ):
            causes = [service.score(exchanges(1))[0].cause for _ in range(2)]
        assert len(server.requests) == 1
        assert all(cause is not None and ACCESS_DENIED in cause for cause in causes)


class TestKeys:
    @by_name
    def test_no_key_and_no_text_in_logs_at_any_level(
        self, wire: Wire, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with FakeServer(wire, [status(500), ok]) as server, made(wire, server.url) as service:
            assert service.score(exchanges(1))[0].scored
        assert caplog.records
        shown = "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
        assert KEY not in shown
        assert "nobody may quote" not in shown

    @by_name
    def test_a_missing_key_names_the_variable(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in KEYS:
            monkeypatch.delenv(variable)
        with pytest.raises(ModeratorError, match=r"set the environment variable [A-Z_]*KEY$"):
            made(wire, "http://127.0.0.1:9")

    def test_a_key_instead_of_a_variable_is_not_repeated(self) -> None:
        for key in ("sk-proj-abc", "aBcD1234", ""):
            with pytest.raises(ModeratorError, match="name of an environment variable") as info:
                made(OpenAIWire(), "http://127.0.0.1:9", api_key_env=key)
            assert not key or key not in str(info.value)

    def test_a_key_that_no_header_can_carry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "line\nbreak")
        with pytest.raises(ModeratorError, match="does not hold a usable key") as info:
            read_key("OPENAI_API_KEY", ModeratorError)
        assert "line" not in str(info.value)

    def test_no_key_where_none_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        wire = OpenAIWire()
        wire.accepts = lambda request: KEY not in str(request.headers)  # type: ignore[method-assign]
        with FakeServer(wire) as server, made(wire, server.url, api_key_env=None) as service:
            assert service.score(exchanges(1))[0].scored

    @pytest.mark.parametrize(
        "url", ["https://me:pass@host/x", "https://host/x?key=abc", "https://host/?access_token=x"]
    )
    def test_a_url_that_carries_a_key_is_refused_and_not_repeated(self, url: str) -> None:
        with pytest.raises(ModeratorError, match="carries a credential") as info:
            checked_url(url, ModeratorError)
        assert "host" not in str(info.value)

    @pytest.mark.parametrize("url", ["ftp://host", "host/path", "https://", "", "file:///etc"])
    def test_a_url_that_is_none(self, url: str) -> None:
        with pytest.raises(ModeratorError, match="not a URL of a service"):
            checked_url(url, ModeratorError)


class TestThread:
    def test_it_starts_at_first_use_and_ends_with_close(self) -> None:
        wire = HttpWire()
        with FakeServer(wire) as server:
            before = set(threading.enumerate())
            service = made(wire, server.url)
            assert set(threading.enumerate()) == before
            service.score(exchanges(1))
            (thread,) = [t for t in threading.enumerate() if t.name == "moderator-http"]
            service.close()
            service.close()
            assert not thread.is_alive()
            (verdict,) = service.score(exchanges(1))
        assert verdict.cause == "the moderator was closed"

    def test_a_forgotten_moderator_ends_its_thread(self) -> None:
        wire = HttpWire()
        with FakeServer(wire) as server:
            service = made(wire, server.url)
            service.score(exchanges(1))
            del service
            gc.collect()
            assert not [t for t in threading.enumerate() if t.name == "moderator-http"]

    def test_close_ends_a_call_under_way(self) -> None:
        wire = HttpWire()
        with (
            FakeServer(wire, [slow]) as server,
            made(wire, server.url) as service,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            call = pool.submit(service.score, exchanges(2))
            while not server.requests:
                time.sleep(0.005)
            service.close()
            verdicts = call.result(timeout=5)
        assert [verdict.cause for verdict in verdicts] == ["the moderator was closed"] * 2

    def test_it_works_within_a_running_event_loop(self) -> None:
        wire = HttpWire()

        async def main() -> list[bool]:
            return [verdict.scored for verdict in service.score(exchanges(2))]

        with FakeServer(wire) as server, made(wire, server.url) as service:
            assert asyncio.run(main()) == [True, True]

    def test_behind_the_guard_of_the_aligner(self) -> None:
        wire = OpenAIWire()
        with FakeServer(wire) as server, made(wire, server.url) as service:
            guarded = TimeLimited(service, timeout=5.0)
            verdicts = [guarded.score(exchanges(2)) for _ in range(2)]
        assert all(verdict.scored for batch in verdicts for verdict in batch)


class TestOptions:
    def test_unknown_options_name_the_nearest(self) -> None:
        for name, nearest in (("modle", "model"), ("dead_line", "deadline")):
            spec = {"name": "openai", "options": {name: 1}}
            with pytest.raises(ModeratorError, match=f"'{name}'; did you mean '{nearest}'"):
                load_moderator(Policy(name="p", moderators=(spec,)))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"deadline": 0},
            {"deadline": math.inf},
            {"deadline": "30"},
            {"attempts": 0},
            {"attempts": 1.5},
            {"attempts": True},
            {"include_prompt": "yes"},
            {"include_prompt": 1},
            {"map": ["hate"]},
            {"max_chars": 9},
        ],
        ids=str,
    )
    def test_values_without_sense_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ModeratorError, match=f"option '{next(iter(wrong))}'"):
            Settings(**wrong)  # type: ignore[arg-type]

    def test_a_map_changes_what_is_required(self) -> None:
        """A server with six categories, behind the client of the one with thirteen."""

        def six(wire: Wire, body: object) -> Answer:
            reply = wire.success(body)
            for result in reply["results"]:
                scores = result["category_scores"]
                result["category_scores"] = {n: s for n, s in scores.items() if "/" not in n}
            return Answer(200, reply)

        wire = OpenAIWire()
        without = {name: None for name in wire.categories if "/" in name}
        with FakeServer(wire, [six]) as server:
            with made(wire, server.url) as service:
                assert not service.score(exchanges(1))[0].scored
            with made(wire, server.url, map=without) as service:
                (verdict,) = service.score(exchanges(1))
        assert set(verdict.categories) == set(service.categories)
        assert len(service.categories) == 6

    def test_a_name_left_out_can_be_mapped(self) -> None:
        wire = PerspectiveWire()
        with (
            FakeServer(wire) as server,
            made(wire, server.url, map={"PROFANITY": "custom/profanity"}) as service,
        ):
            (verdict,) = service.score(exchanges(1))
        assert "custom/profanity" in verdict.categories
        assert "PROFANITY" in server.requests[0].body["requestedAttributes"]

    def test_azure_and_perspective_say_what_is_wrong_with_them(self) -> None:
        with pytest.warns(UserWarning, match="eight values per category"):
            AzureWire().make("http://127.0.0.1:9")
        with pytest.warns(UserWarning, match="31 December 2026"):
            PerspectiveWire().make("http://127.0.0.1:9")

    def test_azure_needs_an_endpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = Policy(name="p", moderators=("azure",))
        with pytest.raises(ModeratorError, match="AZURE_CONTENT_SAFETY_ENDPOINT"):
            load_moderator(policy)
        monkeypatch.setenv("AZURE_CONTENT_SAFETY_ENDPOINT", "https://x.example/")
        with pytest.warns(UserWarning, match="azure"):
            assert "https://x.example/contentsafety/" in repr(load_moderator(policy))


class TestHeaders:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("12ms", 0.012), ("6m0s", 360), ("1h2m3.5s", 3723.5), ("7", 7), ("1.5", 1.5),
         ("", 0), ("soon", 0), ("-3", 0), ("nan", 0), ("5 s", 0)],
    )  # fmt: skip
    def test_durations(self, text: str, seconds: float) -> None:
        assert duration(text) == pytest.approx(seconds)

    def test_a_unix_time_is_a_duration_from_now(self) -> None:
        assert duration(str(time.time() + 40)) == pytest.approx(40, abs=1)
        assert duration(str(time.time() - 40)) == 0

    def test_retry_after(self) -> None:
        assert retry_after({}) == 0
        assert retry_after({"retry-after": "3"}) == 3
        assert retry_after({"retry-after-ms": "250", "retry-after": "3"}) == 0.25
        assert retry_after({"retry-after": formatdate(time.time() + 50)}) == pytest.approx(
            50, abs=2
        )
        assert retry_after({"retry-after": "Fri, 99 Foo"}) == 0

    def test_a_rate_limit_pauses_only_when_it_is_used_up(self) -> None:
        left = {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "9s"}
        assert rate_limit_pause(left) == 0
        assert rate_limit_pause({**left, "x-ratelimit-remaining-tokens": "0"}) == 9

    def test_every_status_but_success_is_a_failure(self) -> None:
        assert all(failure_of(code, {}) is None for code in range(200, 300))
        for code in (*range(100, 200), *range(300, 600)):
            failure = failure_of(code, {})
            assert failure is not None
            assert str(code) in failure.cause
            assert failure.retry == (code in (408, 425, 429) or code >= 500)
            assert (ACCESS_DENIED in failure.cause) == (code in (401, 403))
