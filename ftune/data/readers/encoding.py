"""Which encoding a text file has, and what becomes of bytes that it does not allow."""

import codecs
from encodings.aliases import aliases

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DAMAGED = "ftune.damaged"


def encoding_of(head: bytes, forced: str | None = None) -> str:
    """The encoding of a file that begins with `head`: `forced`, or what its mark or its NUL bytes say, or UTF-8."""
    marked = next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), "")
    if forced is not None:
        same = marked and known_encoding(forced).startswith(marked.removesuffix("-sig"))
        return marked if same else forced
    return marked or _by_nul_bytes(head) or "utf-8"


def known_encoding(name: str) -> str:
    """Python's own name of a text encoding. Raises DataError where there is none."""
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        hint = did_you_mean(name, sorted({*aliases, *(alias.replace("_", "-") for alias in aliases)}))
        near = (
            hint
            if hint.startswith("; did") and name not in aliases
            else "; use utf-8, utf-16, latin-1, cp1252 or another that Python knows"
        )
        raise DataError(f"there is no text encoding '{name}'{near}") from None


def errors_of(encoding: str) -> str:
    """The way to decode that keeps every wrong byte visible, as one character that no text has."""
    return "surrogateescape" if encoding.startswith("utf-8") else DAMAGED


def _by_nul_bytes(head: bytes) -> str:
    """UTF-16 without a mark: of Western text, JSON and tables, every second byte is mostly NUL, and at once."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    begins = tuple(byte == 0 for byte in head[:4])
    if begins == (False, True, False, True) and odd > max(len(head) / 20, 4 * even):
        return "utf-16-le"
    if begins == (True, False, True, False) and even > max(len(head) / 20, 4 * odd):
        return "utf-16-be"
    return ""


def _visible(error: UnicodeError) -> tuple[str, int]:
    """U+DC00 plus the byte: what surrogateescape does for UTF-8, for bytes below 0x80 too."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(DAMAGED, _visible)
