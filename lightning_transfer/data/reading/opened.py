"""Opens files of text: uncompressed and decoded, whatever their names say."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TextIO

from lightning_transfer.errors import UserError

_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
_ZIP = b"PK\x03\x04"
# UTF-32 comes first, as its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextlib.contextmanager
def open_text(file: Path, encoding: str | None = None, errors: str = "strict") -> Iterator[TextIO]:
    """Opens a file of text, or the only file in a ``.zip``; line ends are left as they are.

    Args:
        file: The file; ``.gz``, ``.bz2``, ``.xz`` and ``.zip`` are known by their content.
        encoding: The encoding; if not given, UTF-8, or what the byte order mark says.
        errors: What to do with bytes that cannot be decoded, as for ``open``.

    Raises:
        UserError: For a file that cannot be read, is cut off or damaged, or is not in the encoding.
    """
    try:
        with _open_bytes(file) as stream:
            start = stream.peek(4)[:4]
            name = encoding or find_encoding(start)
            name = "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name
            with io.TextIOWrapper(stream, name, errors, newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise _not_decoded(file, name, error) from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UserError(f"{file.name} cannot be read: {reason}; copy it again") from error


def member_of(file: Path) -> str:
    """Returns the name of the only file in a ``.zip``, without the notes that macOS adds.

    Raises:
        UserError: For several files, or none.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not _is_note(name)]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{file.name} cannot be read: {error}; copy it again") from error
    if len(names) != 1:
        raise UserError(f"{file.name} holds {len(names)} files: expected one table, unpack it into the folder")
    return names[0]


def find_encoding(start: bytes) -> str:
    """Finds the encoding of a file by its first four bytes; UTF-8 where nothing speaks against it."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    if len(start) == 4:  # in UTF-16, half of each sign of ASCII is a zero
        if start[1] == start[3] == 0 != start[0]:
            return "utf-16-le"
        if start[0] == start[2] == 0 != start[1]:
            return "utf-16-be"
    return "utf-8"


@contextlib.contextmanager
def _open_bytes(file: Path) -> Iterator[io.BufferedReader]:
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(file.open("rb"))
        start = stream.read(6)
        stream.seek(0)
        if start.startswith(_ZIP):
            archive = stack.enter_context(zipfile.ZipFile(stream))
            stream = stack.enter_context(archive.open(member_of(file)))
        for magic, opened in _COMPRESSED.items():
            if start.startswith(magic):
                stream = stack.enter_context(opened(stream))
        yield stack.enter_context(io.BufferedReader(stream))  # type: ignore[arg-type]


def _not_decoded(file: Path, encoding: str, error: UnicodeDecodeError) -> UserError:
    place = ""
    if encoding in ("utf-8", "utf-8-sig"):
        with _open_bytes(file) as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as found:
                    place = f" (byte 0x{line[found.start]:02x} in line {number})"
                    break
    return UserError(
        f"{file.name} is not {encoding.removesuffix('-sig').upper()}{place}: set data.reader.encoding, latin-1, cp1252,"
        " utf-16 or gb18030 for instance"
    )


def _is_note(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)
