"""YAML that people write: plain data, read so that whatever is wrong with it has a place.

Texts, numbers, truth values, dates, lists and mappings of them, with aliases and merge keys
(``<<``). A key that stands twice is an error; other tags are, too.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_REPEATED = 100_000
"""Values that aliases may repeat: a few lines of them can stand for more than any memory holds."""


class NotYamlError(Exception):
    """The text is not YAML, or none that is read here; it is not quoted.

    Args:
        problem: what is wrong.
        mark: where; None: as a whole.

    Attributes:
        place: the line and the column, from 1.
    """

    def __init__(self, problem: str, mark: yaml.Mark | None = None) -> None:
        self.place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1"
        super().__init__(f"{self.place}: {problem}")


def read_yaml(text: str) -> Any:
    """The one document of a text; None if it is empty.

    Raises:
        NotYamlError: there is none, or more than one.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        mark = yaml.Mark("", error.position, line, column, None, 0)
        raise NotYamlError(f"character #x{error.character:04x} is not allowed", mark) from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        loader.check(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise NotYamlError(_problem(error), error.problem_mark) from None
    except RecursionError:
        raise NotYamlError("nested too deep", loader.get_mark()) from None
    except (ValueError, OverflowError):  # of an escape or a directive: no constructor's
        problem = "a character or a number that there is not"
        raise NotYamlError(problem, loader.get_mark()) from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if not error.context:
        return problem
    began, found = error.context_mark, error.problem_mark
    elsewhere = began and found and began.line != found.line
    where = f" of line {began.line + 1}" if began and elsewhere else ""
    return f"{problem}, {error.context}{where}"


class _Loader(yaml.SafeLoader):
    """A safe loader of plain data whose faults are all YAML's, with their place."""

    def check(self, node: yaml.Node, sizes: dict[yaml.Node, int | None]) -> int:
        """Refuse keys that stand twice, aliases that do not end, and those that repeat too much.

        Returns:
            The values that the node stands for.
        """
        if node in sizes:
            if (known := sizes[node]) is None:
                raise _fault("a value may not contain itself", node)
            return known
        sizes[node] = None
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        size = sizes[node] = 1 + sum(self.check(part, sizes) for part in parts)
        if size - len(sizes) > _REPEATED:
            raise _fault(f"aliases repeat more than {_REPEATED} values", node)
        return size

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _fault("a key must be a text", key_node)
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if merge else self.construct_object(key_node, deep=True)
            if key in seen:
                raise _fault(f"key {key!r} stands twice", key_node)
            seen.add(key)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=True)
            if isinstance(value, str):
                # JSON, which is YAML, writes some characters as two halves.
                return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            if isinstance(value, int):
                str(value)  # a number of thousands of digits can be read, and not be written
        except (yaml.YAMLError, RecursionError):
            raise
        except UnicodeDecodeError:
            raise _fault("half a surrogate pair is no character", node) from None
        except Exception:
            kind = str(node.tag).rpartition(":")[2]
            said = f"this is no {kind} that can be read: if it is a text, put it in quotes"
            raise _fault(said, node) from None
        return value


def _fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_PLAIN = ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: made
    for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _PLAIN
}
