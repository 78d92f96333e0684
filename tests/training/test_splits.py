"""The splits part the rows and agree with the table in the docstring (needs the data folder)."""

import pytest

from training import splits


def test_a_bucket_depends_on_the_words_only() -> None:
    assert splits.bucket("How do I bake bread?") == splits.bucket("  how do i BAKE bread ")
    assert len({splits.bucket(f"text {place}") for place in range(2000)}) == 100


@pytest.fixture
def data() -> None:
    try:
        splits.data_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_no_text_is_both_trained_on_and_held_out(data: None) -> None:
    held_out, others = set(), set()
    for name in splits.SOURCES:
        held_out |= {splits.normalise(row.text) for row in splits.load(name, splits.HELD_OUT)}
        for split in (splits.TRAIN, splits.VALIDATION):
            others |= {splits.normalise(row.text) for row in splits.load(name, split)}
    assert not held_out & others


def test_advbench_is_parted_by_rows(data: None) -> None:
    assert [row.row for row in splits.load("advbench", splits.HELD_OUT)] == list(range(420, 520))


@pytest.mark.parametrize("name", ["simple-safety-tests", "self-instruct-user", "do-not-answer"])
def test_sources_for_evaluation_only_are_held_out_entirely(data: None, name: str) -> None:
    assert not splits.load(name, splits.TRAIN)
    assert not splits.load(name, splits.VALIDATION)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="no source"):
        splits.load("nothing", splits.TRAIN)
