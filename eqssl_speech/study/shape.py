"""Says where in a file something is of the wrong kind; the host's converter takes a text for a list of its letters."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from eqssl_speech.error import InputError

_WORDS: Final[Mapping[Any, str]] = {
    str: "text; put it in quotes",
    bool: "`true` or `false`",
    int: "a whole number",
    float: "a number",
}


def require_shape(where: str, value: object, kind: Any) -> None:
    """Refuse what is no instance of a type, as it stands in a file.

    :param where: The place in the file, such as ``regimes.mixed``; empty for the whole.
    :param value: What stands there: mappings, lists, texts, numbers.
    :param kind: A dataclass, or what its fields may be: a mapping from text, a list, one of some values, text, a
        number, ``object``, or any of these or nothing.
    :raises InputError: If it is not of that kind.
    """
    origin = get_origin(kind)

    if origin in (Union, types.UnionType):
        if value is not None:
            (other,) = (k for k in get_args(kind) if k is not types.NoneType)
            require_shape(where, value, other)
    elif origin is Literal:
        if value not in get_args(kind):
            raise _refuse(where, value, f"one of {', '.join(map(str, get_args(kind)))}")
    elif is_dataclass(kind):
        _require_fields(where, value, kind)
    elif origin is dict:
        for key, item in _require_mapping(where, value).items():
            require_shape(_join(where, key), item, get_args(kind)[1])
    elif origin is list:
        if not isinstance(value, list):
            raise _refuse(where, value, "a list")

        for index, item in enumerate(value):
            require_shape(f"{where}[{index}]", item, *get_args(kind))
    elif kind is not object and not _is_scalar(value, kind):
        raise _refuse(where, value, _WORDS[kind])


def _require_fields(where: str, value: object, kind: Any) -> None:
    content = _require_mapping(where, value)
    hints = get_type_hints(kind)

    for key in content:
        if key not in hints:
            whole = f"`{where}`" if where else "the file"

            raise InputError(
                f"there is no `{_join(where, key)}`; {whole} can have {', '.join(hints)}."
            )

    for field in fields(kind):
        if field.name in content:
            require_shape(_join(where, field.name), content[field.name], hints[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"`{_join(where, field.name)}` is missing; add it.")


def _require_mapping(where: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise _refuse(where, value, "a section with keys of its own")

    for key in value:
        if not isinstance(key, str):
            raise _refuse(_join(where, key), key, _WORDS[str])

    return value


def _is_scalar(value: object, kind: Any) -> bool:
    # To Python `true` is a number.
    if isinstance(value, bool):
        return kind is bool

    return isinstance(value, (int, float) if kind is float else kind)


def _refuse(where: str, value: object, wanted: str) -> InputError:
    return InputError(
        f"{f'`{where}`' if where else 'the file'} is {_show(value)}, but must be {wanted}."
    )


def _show(value: object) -> str:
    if value is None:
        return "empty"

    if isinstance(value, Mapping):
        return "a section"

    return "a list" if isinstance(value, list) else f"`{value}`"


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)
