"""Words of other parties, made safe to store, print and render."""

import unicodedata

TEXT = 300  # characters of a client's words that are kept
LONG = 10_000  # characters of a message of our own that are shown, with what it quotes


def plain(text: object, limit: int = TEXT) -> str:
    """Return another party's words safe to store, print and render: one line, no control character, at most ``limit``.

    Control characters, line ends and marks that reorder text become ``\\x1b``-like escapes; what is cut off is counted.
    """
    words = str(text[: limit + 1] if isinstance(text, str) else text)
    printable = "".join(c if _is_printable(c) else c.encode("unicode_escape").decode() for c in words[:limit])
    whole = len(text) if isinstance(text, str) else len(words)
    return printable if whole <= limit else f"{printable}… ({whole - limit} more characters)"


def _is_printable(character: str) -> bool:
    return character in " \N{NO-BREAK SPACE}" or (character != "\\" and unicodedata.category(character)[0] not in "CZ")
