"""A YAML file that people write -> plain values, or a checked value of a given type.

PyYAML follows YAML 1.1, which surprises people: it reads `1e-3` as text, `no` and `off` as false,
`010` as 8 and `1:30` as 90, and of a key that is given twice it keeps the last one without a word.
Here scalars without quotes follow the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3.2)
or, where a type is known, whatever version fits it. A key that is given twice is refused.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, Dict, Pattern, Tuple, Type, TypeVar, Union

import msgspec
import yaml

T = TypeVar("T")

# a file may hold thousands of archs
_type_info: Any = functools.lru_cache(maxsize=16)(msgspec.inspect.type_info)


class Ambiguous(str):
    """A scalar without quotes that one version of YAML reads as text, another as bool or number.

    `1e-3` is text in 1.1 and a number in 1.2, `no` is a bool in 1.1 and text in 1.2. It is text
    until `as_type` knows what is wanted in its place, and takes `value` if that is of such a type.
    """

    value: Union[bool, int, float]

    @classmethod
    def of(cls, text: str, value: Union[bool, int, float]) -> Ambiguous:
        """The scalar that is written as `text`."""
        made = cls(text)
        made.value = value
        return made


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, or of a JSON file if it is named so: dicts, lists and scalars.

    Some scalars are Ambiguous. Takes UTF-8 and, with a byte order mark, UTF-16. ValueError with one
    line that says why the file cannot be read, and where.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            return json.loads(data)
        content = yaml.load(data, _Loader)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from error
    if content is None:
        raise ValueError("it is empty")
    return content


def as_type(content: Any, kind: Type[T]) -> T:
    """Plain values -> `kind`; ValueError names the key that is wrong, and says why.

    An Ambiguous scalar becomes what `kind` has in its place. A number such as 64.0 or 1e3 may stand
    where `kind` has an int.
    """
    try:
        return msgspec.convert(_fitted(content, _type_info(kind)), kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("$.", "")) from error


def _fitted(content: Any, kind: msgspec.inspect.Type) -> Any:
    """`content` with a bool or an int in the places where `kind` wants one, if it means one."""
    inspect = msgspec.inspect
    if isinstance(kind, inspect.UnionType):
        if any(isinstance(one, inspect.StrType) for one in kind.types):
            return content
        for one in kind.types:
            content = _fitted(content, one)
    elif isinstance(kind, inspect.BoolType) and isinstance(content, Ambiguous):
        return content.value if isinstance(content.value, bool) else content
    elif isinstance(kind, (inspect.IntType, inspect.FloatType)) and isinstance(content, Ambiguous):
        return content if isinstance(content.value, bool) else _fitted(content.value, kind)
    elif isinstance(kind, inspect.IntType) and isinstance(content, float):
        return int(content) if content.is_integer() else content
    elif isinstance(kind, inspect.StructType) and isinstance(content, dict):
        types = {field.encode_name: field.type for field in kind.fields}
        return {
            key: _fitted(value, types[key]) if key in types else value
            for key, value in content.items()
        }
    elif isinstance(content, list):
        if isinstance(kind, (inspect.VarTupleType, inspect.ListType)):
            return [_fitted(value, kind.item_type) for value in content]
        if isinstance(kind, inspect.TupleType) and len(kind.item_types) == len(content):
            return [_fitted(value, one) for value, one in zip(content, kind.item_types)]
    return content


class _Loader(yaml.SafeLoader):
    """Reads the core schema of YAML 1.2, and the merge key `<<` of YAML 1.1."""

    yaml_implicit_resolvers: Dict[str, Any] = {}  # noqa: RUF012 (PyYAML declares them so)
    yaml_constructors = {}  # noqa: RUF012


def _null(loader: _Loader, node: yaml.ScalarNode) -> None:
    return None


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return _checked(node, _BOOL).lower() == "true"


def _old_bool(loader: _Loader, node: yaml.ScalarNode) -> Ambiguous:
    return Ambiguous.of(node.value, node.value.lower() in ("yes", "on"))


def _int(loader: _Loader, node: yaml.ScalarNode) -> Union[int, Ambiguous]:
    text = _checked(node, _INT)
    try:
        number = int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    except ValueError as error:  # Python refuses thousands of digits
        raise _fault(node, "the number has too many digits") from error
    return Ambiguous.of(text, number) if _was_text(text) else number


def _float(loader: _Loader, node: yaml.ScalarNode) -> Union[float, Ambiguous]:
    text = _checked(node, _FLOAT)
    number = float(re.sub(r"\.(?=[a-zA-Z])", "", text))  # Python has no dot in `.inf` and `.nan`
    return Ambiguous.of(text, number) if _was_text(text) else number


def _was_text(text: str) -> bool:
    """Whether YAML 1.1 reads `text` as text."""
    tag: str = _OLD.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag == f"{_TAG}str"


def _map(loader: _Loader, node: yaml.MappingNode) -> Dict[Any, Any]:
    """A mapping; keys that a merge brings may be given again, and no others."""
    seen: Dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE:
            key = loader.construct_object(key_node)
            if key in seen:
                raise _fault(key_node, f"the key '{key}' was already given in line {seen[key]}")
            seen[key] = line
    loader.flatten_mapping(node)
    content = loader.construct_mapping(node, deep=True)
    # msgspec takes no keys of another class than str
    return {str(key) if isinstance(key, str) else key: value for key, value in content.items()}


def _checked(node: yaml.ScalarNode, pattern: Pattern[str]) -> str:
    """The text of a scalar, which an explicit tag such as `!!int x` may give a type in vain."""
    text: str = node.value
    if not pattern.fullmatch(text):
        raise _fault(node, f"'{text}' is not of the type {node.tag.rpartition(':')[2]}")
    return text


def _fault(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _reason(error: yaml.YAMLError) -> str:
    """One line for an error that PyYAML writes over several."""
    if isinstance(error, yaml.reader.ReaderError):
        if isinstance(error.character, bytes):
            return "it is not UTF-8; save it with that encoding"
        return f"character {error.position + 1} is not text; save the file as UTF-8"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return " ".join(str(error).split())
    reason = error.problem
    if reason.startswith("but "):
        reason = f"{error.context}, {reason}"
    if "'\\t'" in reason:
        reason += "; indent with spaces, as YAML takes no tabs there"
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {reason}" if mark else reason


_OLD = yaml.SafeLoader("")
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_OLD_BOOL = re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")
_NULL = re.compile(r"~|null|Null|NULL|")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
# in this order, as an int is a float too
_SCALARS: Tuple[Tuple[str, Pattern[str], str, Any], ...] = (
    ("null", _NULL, "~nN", _null),
    ("bool", _BOOL, "tTfF", _bool),
    ("old-bool", _OLD_BOOL, "yYnNoO", _old_bool),
    ("int", _INT, "-+0123456789", _int),
    ("float", _FLOAT, "-+.0123456789", _float),
    ("merge", re.compile("<<"), "<", None),
)
_CONSTRUCT: Dict[str, Any] = {
    "str": yaml.SafeLoader.construct_yaml_str,
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": _map,
    **{name: construct for name, _, _, construct in _SCALARS if construct},
}
for _name, _pattern, _first, _ in _SCALARS:
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _firsts = [*_first, ""] if _name == "null" else [*_first]
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _whole, _firsts)
for _name, _construct in _CONSTRUCT.items():
    _Loader.add_constructor(f"{_TAG}{_name}", _construct)
_UNKNOWN: Any = yaml.SafeLoader.construct_undefined
_Loader.add_constructor(None, _UNKNOWN)
