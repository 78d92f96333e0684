"""Policies as files: listed, shown, checked, compared."""

from pathlib import Path

import pytest

from rerail.cli import ExitCode
from rerail.policy import ACCEPT_BELOW, Policy, PolicyStore
from tests.cli.conftest import Cli, write_policy

SHIPPED = PolicyStore.shipped()


def test_list_holds_what_is_shipped_and_what_a_folder_adds(cli: Cli, tmp_path: Path) -> None:
    listed = cli("policy", "list", "--json").document["policies"]
    assert [p["name"] for p in listed] == list(SHIPPED.names())
    assert all(p["version"] == SHIPPED.get(p["name"]).version for p in listed)
    write_policy(tmp_path / "own.yaml", "name: own\nmoderators: [fake]\n")
    write_policy(tmp_path / "strict.yml", "name: strict\nmoderators: [fake]\n")
    ran = cli("policy", "list", "--policies", tmp_path, "--json")
    listed = {p["name"]: p["version"] for p in ran.document["policies"]}
    assert listed.keys() == {*SHIPPED.names(), "own"}
    assert listed["strict"] != SHIPPED.get("strict").version
    assert "own" in cli("policy", "list", "--policies", tmp_path).out


def test_a_folder_with_a_broken_policy_is_an_error(cli: Cli, tmp_path: Path) -> None:
    write_policy(tmp_path / "own.yaml", "name: own\nmoderaters: [fake]\n")
    ran = cli("policy", "list", "--policies", tmp_path)
    assert ran.code == ExitCode.BAD_INPUT
    assert "moderators" in ran.err


def test_a_name_that_two_files_claim(cli: Cli, tmp_path: Path) -> None:
    for file in ("a.yaml", "b.yaml"):
        write_policy(tmp_path / file, "name: own\n")
    ran = cli("policy", "list", "--policies", tmp_path)
    assert ran.code == ExitCode.BAD_INPUT
    assert "both name 'own'" in ran.err


@pytest.mark.parametrize("name", SHIPPED.names())
def test_what_is_shown_is_the_policy(cli: Cli, name: str) -> None:
    ran = cli("policy", "show", name)
    assert Policy.from_yaml(ran.out) == SHIPPED.get(name)
    assert ran.out.startswith(f"# version {SHIPPED.get(name).version}\n")
    document = cli("policy", "show", name, "--json").document
    assert Policy.parse(document["policy"]).version == document["version"]


def test_show_with_a_method(cli: Cli) -> None:
    shown = Policy.from_yaml(cli("policy", "show", "default", "--method", "tide").out)
    assert shown.optimizer.preset == "tide"


def test_check_passes_what_show_writes(cli: Cli, tmp_path: Path) -> None:
    file = write_policy(tmp_path / "p.yaml", "name: p\nmoderators: [fake]\n")
    ran = cli("policy", "check", file, "--json")
    assert ran.code == ExitCode.OK
    (checked,) = ran.document["files"]
    assert (checked["valid"], checked["version"]) == (True, Policy.from_file(file).version)


def test_check_knows_which_categories_the_moderators_give(cli: Cli, tmp_path: Path) -> None:
    text = "name: p\nmoderators: [fake]\ncategories: {hate: 0.5}\n"
    bad = write_policy(tmp_path / "bad.yaml", text)
    confirm = "confirm: [{name: fake, options: {categories: [hate]}}]\n"
    good = write_policy(tmp_path / "good.yaml", text + confirm)
    results = cli("policy", "check", bad, good, "--json").document["files"]
    assert [r["valid"] for r in results] == [False, True]
    assert "names category 'hate'" in results[0]["faults"][0]


def test_check_says_why_a_file_is_not_yaml(cli: Cli, tmp_path: Path) -> None:
    twice = write_policy(tmp_path / "twice.yaml", "name: p\nmoderators: [fake]\nname: q\n")
    date = write_policy(tmp_path / "date.yaml", "name: p\ndescription: 2026-13-45\n")
    ran = cli("policy", "check", twice, date, "--json")
    assert ran.code == ExitCode.BAD_INPUT
    ((first,), (second,)) = (result["faults"] for result in ran.document["files"])
    assert first == f"{twice}, line 3, column 1: key 'name' stands twice"
    assert second.startswith(f"{date}, line 2, column 14: ")


def test_check_names_every_fault_of_every_file(cli: Cli, tmp_path: Path) -> None:
    good = write_policy(tmp_path / "good.yaml", "name: good\nmoderators: [fake]\n")
    bad = write_policy(
        tmp_path / "bad.yaml",
        "name: BAD\ndefault_threshold: 7\nmoderator_timeout: -1\ncategories: {ilicit: 0.1}\n",
    )
    unknown = write_policy(tmp_path / "unknown.yaml", "name: u\nmoderators: [embeded]\n")
    absent = tmp_path / "absent.yaml"
    ran = cli("policy", "check", good, bad, unknown, absent, "--json")
    assert ran.code == ExitCode.BAD_INPUT
    assert not ran.document["valid"]
    results = {Path(r["file"]).name: r for r in ran.document["files"]}
    assert [r["valid"] for r in results.values()] == [True, False, False, False]
    faults = " ".join(results["bad.yaml"]["faults"])
    for word in ("name", "default_threshold", "moderator_timeout", "did you mean 'illicit'"):
        assert word in faults
    assert "did you mean 'embedded'" in results["unknown.yaml"]["faults"][0]
    shown = cli("policy", "check", good, bad, unknown, absent)
    assert shown.code == ExitCode.BAD_INPUT
    assert shown.out.count("not valid") == 3


def test_diff_shows_changed_values_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    old = write_policy(
        tmp_path / "old.yaml", "name: p\ncategories: {hate: 0.3}\nbudget: {generations: 50}\n"
    )
    new = write_policy(tmp_path / "new.yaml", "name: p\ncategories: {illicit: 0.2, hate: null}\n")
    ran = cli("policy", "diff", old, new, "--json")
    assert ran.code == ExitCode.OK
    changes = {c["key"]: (c["old"], c["new"]) for c in ran.document["changes"]}
    assert changes == {
        "categories.hate": (0.3, None),
        "categories.illicit": (None, 0.2),
        "budget.generations": (50, Policy(name="p").budget.generations),
    }
    assert ran.document["old"]["version"] == Policy.from_file(old).version
    shown = cli("policy", "diff", old, new).out
    assert "0.3 → null" in shown
    assert "(not set) → 0.2" in shown


def test_what_a_steered_answer_may_have_is_a_change(cli: Cli, tmp_path: Path) -> None:
    strict = write_policy(tmp_path / "strict.yaml", "name: default\naccept_below: 0.1\n")
    plain = write_policy(tmp_path / "plain.yaml", "name: default\n")
    (change,) = cli("policy", "diff", plain, strict, "--json").document["changes"]
    assert change == {"key": "accept_below", "old": ACCEPT_BELOW, "new": 0.1}
    assert f"accept_below: {ACCEPT_BELOW}" in cli("policy", "show", plain).out
    wrong = write_policy(tmp_path / "wrong.yaml", "name: default\naccept_below: 2\n")
    assert "accept_below" in cli("policy", "check", wrong).out


def test_a_category_that_is_switched_off_is_a_change(cli: Cli, tmp_path: Path) -> None:
    old = write_policy(tmp_path / "old.yaml", "name: p\n")
    new = write_policy(tmp_path / "new.yaml", "name: p\ncategories: {hate: null}\n")
    keys = [c["key"] for c in cli("policy", "diff", old, new, "--json").document["changes"]]
    assert keys == ["categories.hate"]


def test_a_policy_does_not_differ_from_itself(cli: Cli) -> None:
    assert cli("policy", "diff", "default", "default", "--json").document["changes"] == []
    assert "no difference" in cli("policy", "diff", "default", "default").out
