"""JUnit's XML, which systems of continuous integration read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from rerail.errors import StoreError
from rerail.kit.cases import Result, State
from rerail.types import PolicyTag

_TAGS = {State.FAILED: "failure", State.ERROR: "error", State.SKIPPED: "skipped"}
_COUNTED = {State.FAILED: "failures", State.ERROR: "errors", State.SKIPPED: "skipped"}
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, tag: PolicyTag, results: Sequence[Result]) -> None:
    """Write results, a test case each.

    Raises:
        StoreError: the file cannot be written.
    """
    counts = {"tests": str(len(results))}
    for state, name in _COUNTED.items():
        counts[name] = str(sum(result.state is state for result in results))
    root = ElementTree.Element("testsuites", counts)
    named = {"name": f"{tag.name} {tag.version}", **counts}
    suite = ElementTree.SubElement(root, "testsuite", named)
    for result in results:
        name = _NOT_XML.sub("\ufffd", result.case.id)
        case = ElementTree.SubElement(suite, "testcase", classname=f"policy.{tag.name}", name=name)
        if result.state in _TAGS:
            message = _NOT_XML.sub("\ufffd", result.why or "")
            ElementTree.SubElement(case, _TAGS[result.state], message=message).text = result.found
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another --junit") from None
