import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from rerail.errors import ModeratorError
from rerail.moderators import FakeModerator, load_moderator
from rerail.moderators.disk_cache import DiskCached, default_path, identity
from rerail.moderators.mistral import MistralModerator
from rerail.policy import Policy
from rerail.types import Exchange, Message, Score

SECRET = "the words of a user who trusts us"
EXCHANGES = [
    Exchange((Message("user", SECRET),), "an answer, comply"),
    Exchange((), "an answer, comply"),
    Exchange((), "another answer"),
]


def cached(path: Path, moderator: FakeModerator | None = None, **kwargs: object) -> DiskCached:
    return DiskCached(moderator or FakeModerator(), path / "v.sqlite3", **kwargs)  # type: ignore[arg-type]


def asked(cache: DiskCached) -> int:
    return sum(map(len, cache.calls))


def test_verdicts_outlast_the_process_and_each_is_asked_for_once(tmp_path):
    first = cached(tmp_path)
    verdicts = first.score([*EXCHANGES, EXCHANGES[0]])
    assert [v.categories["illicit"] for v in verdicts] == [1.0, 1.0, 0.0, 1.0]
    assert asked(first) == 3
    first.close()

    second = cached(tmp_path)
    assert second.score([*EXCHANGES, EXCHANGES[0]]) == verdicts
    assert asked(second) == 0


def test_no_text_is_in_the_file(tmp_path):
    cache = cached(tmp_path)
    cache.score(EXCHANGES)
    cache.close()
    files = list(tmp_path.iterdir())
    content = b"".join(file.read_bytes() for file in files)
    assert files
    for words in (SECRET, "an answer", "trusts", "comply"):
        assert words.encode() not in content


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_only_its_owner_can_read_it(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "folder"
    before = os.umask(0)
    try:
        cache = DiskCached(FakeModerator(), folder / "v.sqlite3")
        cache.score(EXCHANGES)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "v.sqlite3").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_that_others_may_write_to_is_not_believed(tmp_path):
    cached(tmp_path).close()
    (tmp_path / "v.sqlite3").chmod(0o622)
    with pytest.raises(ModeratorError, match="others may write"):
        cached(tmp_path)


def test_another_version_of_rerail_asks_anew(tmp_path, monkeypatch):
    cached(tmp_path).score(EXCHANGES)
    monkeypatch.setattr("rerail.moderators.disk_cache.__version__", "0.0.0+other")
    other = cached(tmp_path)
    other.score(EXCHANGES)
    assert asked(other) == 3


def test_another_name_model_taxonomy_or_option_is_another_key(monkeypatch):
    monkeypatch.setenv("MISTRAL_API_KEY", "k")
    keys = {
        identity(FakeModerator(), {}),
        identity(FakeModerator(name="other"), {}),
        identity(FakeModerator(categories=("hate",)), {}),
        identity(FakeModerator(), {"words": ["x"]}),
        identity(MistralModerator(), {}),
        identity(MistralModerator(model="other"), {}),
        identity(MistralModerator(map={"law": "custom/law"}), {}),
    }
    assert len(keys) == 7


def test_unscored_verdicts_are_asked_for_again(tmp_path):
    cache = cached(tmp_path, FakeModerator(lambda exchange: Score.unscored("down")))
    for _ in range(2):
        assert not cache.score(EXCHANGES[:1])[0].scored
    assert asked(cache) == 2


def test_old_verdicts_are_asked_for_again_and_go(tmp_path, monkeypatch):
    cache = cached(tmp_path, max_age_days=1.0)
    now = 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    cache.score(EXCHANGES[:1])
    monkeypatch.setattr("time.time", lambda: now + 0.9 * 86400)
    cache.score(EXCHANGES[:1])
    assert asked(cache) == 1
    monkeypatch.setattr("time.time", lambda: now + 1.1 * 86400)
    cache.score(EXCHANGES[1:2])
    assert rows(tmp_path) == 1
    cache.score(EXCHANGES[:1])
    assert asked(cache) == 3


def rows(path: Path) -> int:
    database = sqlite3.connect(path / "v.sqlite3")
    try:
        return int(database.execute("SELECT count(*) FROM verdict").fetchone()[0])
    finally:
        database.close()


def test_the_oldest_go_first_when_it_is_full(tmp_path):
    cache = cached(tmp_path, max_entries=2)
    for exchange in EXCHANGES:
        cache.score([exchange])
    assert rows(tmp_path) == 2
    cache.score(EXCHANGES[1:])
    assert asked(cache) == 3


@pytest.mark.parametrize(
    "stored", ["{}", "[]", "nonsense", '{"illicit": 7}', '{"illicit": NaN}', '{"other": 0.1}', "1"]
)
def test_a_stored_verdict_that_is_not_a_full_one_is_asked_for_again(tmp_path, stored):
    cache = cached(tmp_path)
    cache.score(EXCHANGES[:1])
    with cache._database as database:
        database.execute("UPDATE verdict SET scores = ?", (stored,))
    assert cache.score(EXCHANGES[:1])[0].categories == {"illicit": 1.0}
    assert asked(cache) == 2


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "v.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ModeratorError, match="cannot use the verdict cache"):
        cached(tmp_path)


def test_a_cache_that_breaks_later_is_as_good_as_none(tmp_path):
    cache = cached(tmp_path)
    cache._database.close()
    assert [v.categories["illicit"] for v in cache.score(EXCHANGES)] == [1.0, 1.0, 0.0]


def test_threads_and_other_processes_may_use_it_at_the_same_time(tmp_path):
    caches = [cached(tmp_path) for _ in range(2)]
    wrong: list[object] = []

    def work(cache: DiskCached, start: int) -> None:
        for i in range(start, start + 20):
            (verdict,) = cache.score([Exchange((), f"text {i % 15} comply")])
            if verdict.categories != {"illicit": 1.0}:
                wrong.append(verdict)

    threads = [threading.Thread(target=work, args=(caches[i % 2], i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert rows(tmp_path) == 15


def test_a_policy_opts_in(clean_environment):
    for options, kind in (({}, FakeModerator), ({"disk_cache": False}, FakeModerator),
                          ({"disk_cache": True}, DiskCached)):  # fmt: skip
        assert default_path().exists() is False
        moderator = load_moderator(
            Policy(name="p", moderators=({"name": "fake", "options": options},))
        )
        assert isinstance(moderator, kind)
    assert default_path().is_relative_to(clean_environment)
    assert default_path().exists()
    with pytest.raises(ModeratorError, match="'disk_cache' takes"):
        load_moderator(Policy(name="p", moderators=({"name": "fake",
                                                     "options": {"disk_cache": 3}},)))  # fmt: skip
