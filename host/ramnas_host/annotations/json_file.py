"""A JSON file as other people's tools write it -> typed values, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ramnas_models.errors import DataError
from ramnas_models.files import GIT_LFS

T = TypeVar("T")


class JsonFile:
    """A JSON file that can be read into several types. `call` says what kind of file it is."""

    def __init__(self, file: Path, call: str) -> None:
        self._file, self._call = file, call
        try:
            data = file.read_bytes()
            encoding = json.detect_encoding(data[:4])
            self._data = data if encoding == "utf-8" else data.decode(encoding).encode()
        except OSError as error:
            raise self._wrong(error.strerror or str(error)) from error
        except UnicodeError as error:
            raise self._wrong(f"it is not text: {error}") from error
        if not self._data.strip():
            raise self._wrong("it is empty")
        if self._data.startswith(GIT_LFS):
            raise self._wrong("it is a pointer of Git LFS; run git lfs pull")
        self._value: Any = None

    def read(self, form: type[T]) -> T:
        """The content as a value of the type `form`; DataError if it is not one."""
        try:
            if self._value is None:
                try:
                    return msgspec.json.decode(self._data, type=form)
                except msgspec.ValidationError:
                    raise
                except (msgspec.DecodeError, UnicodeError):
                    self._value = self._read_as_python_writes_it()
            return msgspec.convert(self._value, form)
        except (msgspec.ValidationError, RecursionError) as error:
            raise self._wrong(str(error)) from error
        except UnicodeError as error:
            raise self._wrong(f"it has a text with half a character: {error}") from error

    def _read_as_python_writes_it(self) -> Any:
        """Python's json module writes NaN and Infinity, which JSON does not have."""
        try:
            return json.loads(self._data)
        except json.JSONDecodeError as error:
            what = "something follows the end of its JSON" if error.msg == "Extra data" else (
                f"its JSON is cut off or broken: {error.msg}"
            )  # fmt: skip
            where = f"at line {error.lineno}, column {error.colno}"
            raise self._wrong(f"{what} {where}") from error
        except UnicodeError as error:
            raise self._wrong(f"it is not UTF-8 text: {error}") from error
        except ValueError as error:  # a number with too many digits
            raise self._wrong(str(error)) from error

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self._file} is not {self._call}: {what}")
