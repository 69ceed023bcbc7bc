"""Lenient decoding of JSON: a field of another type becomes None, and its path is reported.

A decoder is built from a Struct type and follows its fields, lists and maps. It looks only at
fields that the type declares. So the set of paths that it can report is closed, and no path holds
text of the JSON. JSON of the right types is decoded once. Else each level of the type reads its
part of the JSON three times at most: the work grows linearly with the size.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

Shape = TypeVar("Shape", bound=Struct)

_NAMED_KEYS = frozenset({"next"})


class LenientDecoder(Generic[Shape]):
    """Decodes JSON as ``shape``, whose optional fields may have another type."""

    def __init__(self, shape: type[Shape]) -> None:
        self._decode = msgspec.json.Decoder(shape, strict=False).decode
        self._root = _StructReader(shape, shape)

    def decode(self, raw: bytes | Raw) -> tuple[Shape, tuple[str, ...]]:
        """Return the value, and the sorted paths of the fields of another type.

        A path is like ``pullRequests.items[].externalId``. Raises msgspec.ValidationError when
        ``raw`` is no object or a required field cannot be decoded; msgspec.DecodeError or
        RecursionError when ``raw`` is not JSON.
        """
        try:
            return self._decode(raw), ()
        except msgspec.ValidationError:
            msgspec.json.decode(raw, type=Raw)  # the JSON may be cut after the field
        paths: set[str] = set()
        return self._root.read_fields(raw, "", paths), tuple(sorted(paths))


class ValueReader:
    """Reads a value as its type declares it, or None. Subclasses look inside the value."""

    def __init__(self, annotation: Any) -> None:
        self._decode = msgspec.json.Decoder(annotation, strict=False).decode

    def read(self, raw: Raw, path: str, paths: set[str]) -> Any:
        """Return the value without the parts of another type, whose paths are added."""
        try:
            return self._decode(raw)
        except msgspec.MsgspecError:
            return self.read_parts(raw, path, paths)

    def read_parts(self, _raw: Raw, path: str, paths: set[str]) -> Any:
        """Return the value read part by part, or None if it has no parts."""
        paths.add(path)


class _StructReader(ValueReader):
    def __init__(self, annotation: Any, shape: type[Struct]) -> None:
        super().__init__(annotation)
        fields = msgspec.structs.fields(shape)
        required = [(field.encode_name, field.type) for field in fields if field.required]
        raw_fields = [(field.encode_name, Raw | UnsetType, UNSET) for field in fields]
        self._shape = shape
        self._has_required = bool(required)
        self._decode_required = msgspec.json.Decoder(
            msgspec.defstruct(f"{shape.__name__}Required", required), strict=False
        ).decode
        self._decode_raw = msgspec.json.Decoder(
            msgspec.defstruct(f"{shape.__name__}Raw", raw_fields)
        ).decode
        self._readers = [
            (field.name, field.encode_name, build_reader(field.type)) for field in fields
        ]

    def read_fields(self, raw: bytes | Raw, path: str, paths: set[str]) -> Any:
        """Return the struct. Raises msgspec.ValidationError: no object, or a required field."""
        raw_fields = self._decode_raw(raw)
        if self._has_required:
            self._decode_required(raw)
        prefix = f"{path}." if path else ""
        return self._shape(
            **{
                name: reader.read(value, prefix + key, paths)
                for name, key, reader in self._readers
                if (value := getattr(raw_fields, key)) is not UNSET
            }
        )

    def read_parts(self, raw: Raw, path: str, paths: set[str]) -> Any:
        try:
            return self.read_fields(raw, path, paths)
        except msgspec.ValidationError:
            return super().read_parts(raw, path, paths)


class _ListReader(ValueReader):
    def __init__(self, annotation: Any, item_type: Any) -> None:
        super().__init__(annotation)
        self._item_reader = build_reader(item_type)

    def read_parts(self, raw: Raw, path: str, paths: set[str]) -> Any:
        try:
            items = msgspec.json.decode(raw, type=list[Raw])
        except msgspec.ValidationError:
            return super().read_parts(raw, path, paths)
        item_path = f"{path}[]"
        return [self._item_reader.read(item, item_path, paths) for item in items]


class _MapReader(ValueReader):
    """Reads a map. A key that is not named here stands as ``*`` in a path."""

    def __init__(self, annotation: Any, value_type: Any) -> None:
        super().__init__(annotation)
        self._value_reader = build_reader(value_type)

    def read_parts(self, raw: Raw, path: str, paths: set[str]) -> Any:
        try:
            values = msgspec.json.decode(raw, type=dict[str, Raw])
        except msgspec.ValidationError:
            return super().read_parts(raw, path, paths)
        return {
            key: self._value_reader.read(
                value, f"{path}.{key if key in _NAMED_KEYS else '*'}", paths
            )
            for key, value in values.items()
        }


def build_reader(annotation: Any) -> ValueReader:
    """Return the reader of a type that may be optional."""
    value_type = annotation
    if get_origin(annotation) in {Union, UnionType}:
        (value_type,) = (member for member in get_args(annotation) if member is not NoneType)
    if get_origin(value_type) is Annotated:
        value_type = get_args(value_type)[0]
    arguments = get_args(value_type)
    match get_origin(value_type) or value_type:
        case origin if origin is list:
            return _ListReader(annotation, arguments[0])
        case origin if origin is dict:
            return _MapReader(annotation, arguments[1])
        case shape if isinstance(shape, type) and issubclass(shape, Struct):
            return _StructReader(annotation, shape)
        case _:
            return ValueReader(annotation)
