import dataclasses

import pytest

from rerail.errors import ModeratorError, PolicyError
from rerail.moderators import azure, load_moderator, mistral, openai, perspective
from rerail.moderators.taxonomy import BY_OPTION, Mapped, Taxonomy, taxonomy_of
from rerail.panel import Panel
from rerail.policy import CATEGORIES, Policy
from tests.moderators.services.wires import MISTRAL, OPENAI

EXAMPLE = Taxonomy({"Hate": "hate", "Crime": "illicit", "Guns": "illicit"}, {"Law": "a policy"})


def test_openai_s_names_are_ours():
    assert set(openai.TAXONOMY.mapped) == set(OPENAI) == set(CATEGORIES)
    assert openai.TAXONOMY.categories == CATEGORIES


def test_every_name_of_mistral_s_is_mapped_or_left_out():
    taxonomy = mistral.TAXONOMY
    assert {row.theirs for row in taxonomy.explain()} == set(MISTRAL)
    assert set(taxonomy.left_out) == {"health", "financial", "law", "pii", "jailbreaking"}


def test_azure_and_perspective():
    assert azure.TAXONOMY.categories == ("hate", "self-harm", "sexual", "violence")
    assert perspective.TAXONOMY.categories == ("harassment", "harassment/threatening", "hate")


def test_several_names_of_one_category_give_the_largest_score():
    assert EXAMPLE.scores({"Hate": 0.1, "Crime": 0.2, "Guns": 0.7}) == {"hate": 0.1, "illicit": 0.7}
    with pytest.raises(KeyError):
        EXAMPLE.scores({"Hate": 0.1, "Crime": 0.2})


def test_explain_names_every_name():
    assert [str(row) for row in EXAMPLE.explain()] == [
        "Hate -> hate",
        "Crime -> illicit",
        "Guns -> illicit",
        "Law -> left out: a policy",
    ]
    assert Mapped("Law", None, "a policy") in EXAMPLE.explain()


def test_changes_map_leave_out_and_bring_in():
    taxonomy = EXAMPLE.changed({"Guns": "illicit/violent", "Hate": None, "Law": "custom/law"})
    assert taxonomy.mapped == {"Crime": "illicit", "Guns": "illicit/violent", "Law": "custom/law"}
    assert taxonomy.left_out == {"Hate": BY_OPTION}
    assert taxonomy.categories == ("illicit", "illicit/violent", "custom/law")
    assert EXAMPLE.changed(None) is EXAMPLE


def test_another_mapping_is_another_version():
    same = Taxonomy(dict(reversed(EXAMPLE.mapped.items())), EXAMPLE.left_out)
    versions = {EXAMPLE.version, EXAMPLE.changed({"Law": "hate"}).version,
                EXAMPLE.changed({"Guns": None}).version, azure.TAXONOMY.version}  # fmt: skip
    assert len(versions) == 4
    assert same.version == EXAMPLE.version


@pytest.mark.parametrize(
    ("mapped", "left_out", "message"),
    [
        ({"Hate": "hatred"}, {}, "cannot become 'hatred'; did you mean 'hate'"),
        ({"Hate": "custom/"}, {}, "cannot become"),
        ({"Hate": "hate"}, {"Hate": "why"}, "both mapped and left out"),
        ({}, {"Hate": "why"}, "at least one"),
    ],
)
def test_a_taxonomy_that_makes_no_sense(mapped, left_out, message):
    with pytest.raises(ModeratorError, match=message):
        Taxonomy(mapped, left_out)


def test_an_unknown_name_in_the_option_names_the_nearest():
    with pytest.raises(ModeratorError, match="unknown name 'Hat'; did you mean 'Hate'"):
        EXAMPLE.changed({"Hat": None})


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLE.mapped = {}
    with pytest.raises(TypeError):
        EXAMPLE.mapped["x"] = "hate"


def test_a_policy_that_names_an_unmapped_category_is_an_error_at_load():
    policy = Policy(name="p", moderators=("mistral",), categories={"harassment": 0.5})
    moderator = load_moderator(policy)
    assert taxonomy_of(moderator) is not None
    with pytest.raises(PolicyError, match="'harassment', which its moderators do not give"):
        Panel(policy, moderator)
