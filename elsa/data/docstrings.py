"""First sentences of the docstrings of Python source, cleaned of markup: raw material of `elsa.data.corpus`.

Source is parsed, never imported or run.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = frozenset(
    [
        "__pycache__",
        "_vendor",
        "dist-packages",
        "externals",
        "idlelib",
        "include",
        "lib2to3",
        "site-packages",
        "test",
        "testing",
        "tests",
        "third_party",
        "turtledemo",
        "vendored",
    ]
)
MIN_WORDS, MAX_WORDS = 5, 40

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Markup that stands around words which belong to the sentence: the words stay, the marks go.
_MARKUP = (
    (re.compile(r"~(?:\w+\.)+(?=\w)"), ""),  # ~a.b.Name is shown as Name
    (re.compile(r":[a-zA-Z:+-]+:`(?:[^`<]*<)?[~!]?([^`>]+)>?`"), r"\1"),  # :class:`~a.B`, :ref:`text <b>`
    (re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{0,2}"), r"\1"),  # `text <address>`_
    (re.compile(r"\[`{1,2}[~!]?([^`]+)`{1,2}\](?:\([^)]*\))?"), r"\1"),  # [`Name`](address)
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [text](address)
    (re.compile(r"`+[~!]?([^`]+)`+_{0,2}"), r"\1"),  # ``name``, `name`_
    (re.compile(r"\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}"), r"\1"),  # *word*, **word**
    (re.compile(r"\s*\[[\w#, ]+\]_"), ""),  # [1]_
)
_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)(?<!et al)(?<!\b[A-Z])[.!?](?=\s+[^a-z\s]|\s*$)")
_FOREIGN = re.compile(r"[^A-Za-z0-9 ,.;:'\"()/!?%_-]|::|\(\)|https?:|www\.|\.\.|__|--")
_GENERATED = re.compile(rb"(auto-?|automatically )generated", re.IGNORECASE)
_ATTACHING = ("add_newdoc", "add_docstr")
_SIGNATURE = re.compile(r"[\w.]+\(.*\)( ?->.*)?")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_PARAMETER = re.compile(r"^\S+( \([^)]*\))?:|\boptional\b|\bdefaults to\b", re.IGNORECASE)
_PLAIN_WORD = re.compile(r"[a-z]+(?:[-'/][a-z]+)*")
_VARIABLE = re.compile(r"\S*[A-Z0-9_]\S*")


def python_files(root: Path) -> list[Path]:
    """The .py files under `root`, sorted, without tests and what others wrote (vendored, installed)."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:-1])
        and not path.name.startswith(("test_", "conftest"))
    )


def sentences(path: Path) -> Iterator[str]:
    """The first sentences in one file, in order; nothing from generated or unreadable Python."""
    try:
        source = path.read_bytes()
        if _GENERATED.search(source[:2000]):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's invalid escapes are not the reader's concern
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for docstring in _docstrings(tree):
        sentence = first_sentence(docstring)
        if sentence is not None:
            yield sentence


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a node and of what is defined in it, in order; the bulk of a tree is not walked."""
    if isinstance(node, _Documented):
        docstring = ast.get_docstring(node, clean=False)
        if docstring is not None:
            yield docstring
    elif isinstance(node, ast.Expr):
        yield from _attached(node.value)
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, ()):
            yield from _docstrings(child)


def _attached(call: ast.expr) -> Iterator[str]:
    """The docstring of compiled code in `add_newdoc(place, name, text)`, or with `(name, text)` as the last."""
    if isinstance(call, ast.Call) and call.args and getattr(call.func, "id", "") in _ATTACHING:
        last = call.args[-1]
        text = last.elts[-1] if isinstance(last, ast.Tuple) and last.elts else last
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield text.value


def first_sentence(docstring: str) -> str | None:
    """The first sentence of a docstring without markup, or None where it does not read like language.

    Language: 5 to 40 words, a letter first, no code or address inside, most words plain lower-case ones.
    """
    paragraphs = [" ".join(part.split()) for part in _BLANK_LINE.split(docstring.strip(), 2)[:2]]
    text = paragraphs[-1] if _SIGNATURE.fullmatch(paragraphs[0]) else paragraphs[0]
    for mark, kept in _MARKUP:
        text = mark.sub(kept, text)
    end = _END.search(text)
    text = " ".join((text[: end.start() + 1] if end else text).split())
    return text if _is_language(text) else None


def _is_language(text: str) -> bool:
    words = text.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not text[0].isalpha() or _FOREIGN.search(text):
        return False
    if (
        _PARAMETER.search(text)
        or text.endswith((":", ",", ";"))
        or text.count("(") != text.count(")")
        or text.count('"') % 2
    ):
        return False
    plain = sum(1 for word in words if _PLAIN_WORD.fullmatch(word.strip(",.;:!?()\"'")))
    return plain >= 0.7 * (len(words) - 1)


def template(sentence: str) -> str:
    """What sentences made from one template share: names, numbers and capitals are blanked.

    "Configuration of a BertModel." and "Configuration of a T5Model." have the same template.
    """
    first, *rest = sentence.rstrip(".!?").split()
    return " ".join([first.lower(), *("*" if _VARIABLE.fullmatch(word) else word for word in rest)])
