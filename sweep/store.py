"""The results folder: local, or on any file system that pyarrow knows.

    sweep.json            what the sweep is: workflow, sweep file, identities of files, versions
    parts/<unit>.parquet  the rows of one finished unit: written last and in one piece, it is what makes the unit done
    pictures/<unit>/      its pictures, each with its workflow
    failed/<unit>.json    why a unit failed three times

Every name is made of the unit's hash: whoever writes a unit again writes the same files.
"""

from __future__ import annotations

import errno
import json
import posixpath
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from devtools.console import Failure

from .graph import canonical

MANIFEST, PARTS, PICTURES, FAILED = "sweep.json", "parts", "pictures", "failed"
PUTS_ARE_ATOMIC = ("s3", "gcs", "abfs")
"""Kinds of file system on which a file appears whole, when it is closed."""

PAUSES = (1, 5)
"""Seconds before a write is tried again: storage over a network fails now and then."""

LASTING = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
"""Errors that another try does not change."""


class StoreFailure(Failure):
    """The results folder cannot be read or written: nothing that a unit, or another try of it, could change."""


class Store:
    """The results of one sweep at `place`: a path, or an address such as s3://bucket/folder."""

    def __init__(self, place: str):
        self.place = place if "://" in place else str(Path(place).expanduser().absolute())
        self.fs, self.root = (
            fs.FileSystem.from_uri(self.place) if "://" in place else (fs.LocalFileSystem(), self.place)
        )

    def __reduce__(self):
        return Store, (self.place,)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, fs.LocalFileSystem)

    def path(self, *names: str) -> str:
        return posixpath.join(self.root, *names)

    @contextmanager
    def in_plain_words(self) -> Iterator[None]:
        """Raise StoreFailure, which says where, for an error of the file system."""
        try:
            yield
        except OSError as error:
            raise StoreFailure(f"the results folder {self.place} fails on {socket.gethostname()}: {error}") from error

    # Files

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all. Raises StoreFailure where it cannot be written."""
        path = self.path(name)
        whole = self.fs.type_name in PUTS_ARE_ATOMIC
        at = path if whole else f"{path}.{uuid.uuid4().hex[:8]}.partial"
        with self.in_plain_words():
            for pause in PAUSES:
                try:
                    return self._write(path, at, data)
                except OSError as error:
                    if error.errno in LASTING:
                        raise
                time.sleep(pause)
            return self._write(path, at, data)

    def _write(self, path: str, at: str, data: bytes) -> None:
        """One try: under the name `at`, and from there to `path` if that is another."""
        self.fs.create_dir(posixpath.dirname(path), recursive=True)
        try:
            with self.fs.open_output_stream(at) as stream:
                stream.write(data)
            if at != path:
                self.fs.move(at, path)
        except OSError:
            with suppress(OSError):
                self.fs.delete_file(at)
            raise

    def read_file(self, name: str) -> bytes:
        with self.fs.open_input_file(self.path(name)) as stream:
            return stream.read()

    def exists(self, name: str) -> bool:
        return self.fs.get_file_info(self.path(name)).type == fs.FileType.File

    def names(self, folder: str, ending: str) -> list[str]:
        """Return the names, without `ending`, of the whole files in a folder."""
        found = self.fs.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return sorted(info.base_name.removesuffix(ending) for info in found if info.base_name.endswith(ending))

    # The sweep

    def manifest(self) -> dict | None:
        """Return what the sweep of this folder is, None where it holds none."""
        return json.loads(self.read_file(MANIFEST)) if self.exists(MANIFEST) else None

    def claim(self, manifest: dict) -> None:
        """Make this the folder of a sweep. Raises Failure where it is that of another one."""
        there = self.manifest()
        if there is None:
            self.write_file(MANIFEST, json.dumps(manifest, indent=1).encode())
        elif canonical(there) != canonical(manifest):
            keys = sorted(key for key in there.keys() | manifest.keys() if there.get(key) != manifest.get(key))
            raise Failure(f"{self.place} holds another sweep, with another {', '.join(keys)}: name another folder.")

    # Units

    def has(self, key: str) -> bool:
        return self.exists(_part(key))

    def done(self) -> set[str]:
        """Return the keys of all finished units."""
        return set(self.names(PARTS, ".parquet"))

    def write(self, key: str, rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> None:
        """Keep a finished unit: its pictures first, then, in one piece, its rows."""
        for name, data in pictures.items():
            self.write_file(name, data)
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(list(rows)), sink, compression="zstd")
        self.write_file(_part(key), sink.getvalue().to_pybytes())
        self.forgive(key)

    def rows(self, keys: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> list[dict]:
        """Return the rows of these units, or of all finished ones."""
        wanted = sorted(self.done() if keys is None else keys)
        return [row for key in wanted for row in self._part_rows(key, columns)]

    def _part_rows(self, key: str, columns: Sequence[str] | None) -> list[dict]:
        with self.fs.open_input_file(self.path(_part(key))) as file:
            return parquet.read_table(file, columns=columns).to_pylist()

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as one Parquet file."""
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(list(rows)), sink, compression="zstd")
        self.write_file(name, sink.getvalue().to_pybytes())

    # Failures

    def blame(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep why a unit failed."""
        self.write_file(f"{FAILED}/{key}.json", json.dumps(record, indent=1).encode())

    def forgive(self, key: str) -> None:
        """Forget that a unit failed."""
        if self.exists(f"{FAILED}/{key}.json"):
            self.fs.delete_file(self.path(FAILED, f"{key}.json"))

    def failures(self) -> list[dict]:
        return [json.loads(self.read_file(f"{FAILED}/{key}.json")) for key in self.names(FAILED, ".json")]


def _part(key: str) -> str:
    return f"{PARTS}/{key}.parquet"
