"""Tokens as a reader knows them."""

from __future__ import annotations

from pretraining.tokenizer.tokenizer import ZooTokenizer


class TokenPrinter:
    """Ids as a reader knows them: bytes as characters, a space as ``▁``, nothing that moves a cursor.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: ZooTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = _byte_alphabet() if tokenizer.keeps_spaces else {}

    def __call__(self, index: int) -> str:
        """The token with this id."""
        token = self._tokenizer.token(index)
        if all(character in self._bytes for character in token):
            token = bytes(self._bytes[character] for character in token).decode("utf-8", "backslashreplace")
        return "".join(map(visible, token.replace(" ", "▁"))) or "∅"


def visible(character: str) -> str:
    """A character that is drawn, or its escape."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the others are moved up by 256."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}
