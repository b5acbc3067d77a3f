"""Texts as numbers: WordPiece as BERT does it, from the tokenizer.json that the edge sends."""

import json
import unicodedata
from collections.abc import Mapping


class Words:
    """A WordPiece tokenizer that lowers case, as that of MiniLM. Raises ValueError for another kind."""

    def __init__(self, tokenizer_json: bytes) -> None:
        told = json.loads(tokenizer_json)
        model, normalizer = told["model"], told["normalizer"] or {}
        if model["type"] != "WordPiece" or not normalizer.get("lowercase"):
            raise ValueError(f"its tokenizer is {model['type']}; this client knows WordPiece in lower case alone")
        self._vocabulary: Mapping[str, int] = model["vocab"]
        self._prefix: str = model["continuing_subword_prefix"]
        self._longest: int = model["max_input_chars_per_word"]
        self._unknown: int = self._vocabulary[model["unk_token"]]

    def numbers(self, text: str, most: int) -> list[int]:
        """`[CLS]`, the text's pieces and `[SEP]`, at most `most` in all."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._vocabulary["[CLS]"], *pieces[: most - 2], self._vocabulary["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        """The longest pieces that the vocabulary has, from the left; unknown as a whole where one is missing."""
        found: list[int] = []
        start = 0
        while start < len(word) <= self._longest:
            prefix = self._prefix if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self._vocabulary)
            end = next(ends, None)
            if end is None:
                return [self._unknown]
            found.append(self._vocabulary[prefix + word[start:end]])
            start = end
        return found or [self._unknown]


def _words(text: str) -> list[str]:
    """Words and marks, without accents, in lower case."""
    plain = unicodedata.normalize("NFD", text)
    return "".join(_spaced(letter) for letter in plain).lower().split()


def _spaced(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter.isspace():
        return " "
    if kind == "Mn" or kind[0] == "C" or letter == "\ufffd":
        return ""
    alone = kind[0] == "P" or (letter.isascii() and not letter.isalnum()) or "\u4e00" <= letter <= "\u9fff"
    return f" {letter} " if alone else letter
