"""American spelling wherever a reader looks: text pages, notebooks, docstrings and messages of the package, live parts."""

import ast
import io
import re
import tokenize
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Whole words, in any inflection that the stem allows; "-isation" and the like stand for themselves.
STEMS = r"""
colour\w* grey\w* neighbour\w* favour\w* behaviour\w* flavour\w* honour\w* rigour vapour humour harbour labour\w*
centre centres centred metre metres litre\w* fibre\w* theatre
labelled labelling modelled modelling travell\w+ cancelled cancelling signalled signalling levelled fuelled
distil distils fulfil fulfils skilful enrol
optimis\w+ normalis\w+ regularis\w+ minimis\w+ maximis\w+ recognis\w+ organis\w+ summaris\w+ generalis\w+ initialis\w+
visualis\w+ parametris\w+ parameteris\w+ discretis\w+ quantis\w+ randomis\w+ standardis\w+ characteris(?:e|ed|es|ing)
analyse analysed analyses(?=\s+the) analysing
towards afterwards upwards downwards backwards forwards
licence licences defence offence practise practised judgement catalogue\w* artefact\w* whilst amongst learnt spelt burnt sceptic\w*
programme programmes ageing maths mould\w* plough\w* tyre tyres
"""
BRITISH = re.compile(rf"(?<![\w-])(?:{'|'.join(STEMS.split())})(?![\w-])", re.IGNORECASE)
# Names of things, which stay as they are: weights, recipes, exercises, arguments, functions, attributes.
NAMES = re.compile(
    r"``[^`\n]+``|`[^`\n]*`|https?://\S+|labelled-digits[\w-]*|distil-\w+|centre_of_mass|nearest_neighbour_accuracy"
)
# Words that a stored output repeats: they go with the next run of the notebook that holds it.
STORED = {
    "distil a student with the recipe's own network",
    "or distil again with a wider range",
    "The adapter backwards",
    # keys of diagnoses, which exercises/selftest repeats
    "no normalisation",
    "normalised too early",
    "time backwards",
    "all backwards",
}

TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "book").rglob("*.md")),
]
NOTEBOOKS = [
    *sorted((ROOT / "book").rglob("[!.]*.ipynb")),
    *sorted((ROOT / "exercises" / "source").glob("*.ipynb")),
]
PACKAGE = sorted((ROOT / "cdedu").rglob("*.py"))
LIVE = sorted((ROOT / "book" / "_static" / "live").glob("*.js"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def british(text: str) -> list[str]:
    """British spellings in a text, without code, names, and what stored outputs still repeat."""
    for words in STORED:
        text = text.replace(words, "")
    return BRITISH.findall(NAMES.sub("", text))


def fenced(text: str) -> str:
    """A Markdown text without its blocks of code; boxes stay."""
    return re.sub(r"^(`{3,})(?!\{)\w*\n.*?^\1`*$", "", text, flags=re.MULTILINE | re.DOTALL)


def strings(source: str) -> list[str]:
    """Docstrings and texts in a Python source: literals of several words; of f-strings the words between the values."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            tree = ast.parse(token.string, mode="eval").body
            parts = tree.values if isinstance(tree, ast.JoinedStr) else [tree]
            text = " ".join(str(p.value) for p in parts if isinstance(p, ast.Constant))
            found += [text] if re.search(r"\s", text.strip()) else []
        elif token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            found.append(token.string)
    return found


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_pages_and_guides(path):
    assert british(fenced(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks(path):
    cells = nbformat.read(path, as_version=4).cells
    assert british("\n".join(fenced(c.source) for c in cells if c.cell_type == "markdown")) == []


def test_docstrings_and_messages_of_the_package():
    found = {
        name(p): words
        for p in PACKAGE
        if (words := british("\n".join(strings(p.read_text(encoding="utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize("path", LIVE, ids=name)
def test_live_parts(path):
    source = path.read_text(encoding="utf-8")
    texts = re.findall(r'"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`', source)
    assert british(re.sub(r"`", " ", "\n".join(t for t in texts if " " in t))) == []


def test_the_list_itself():
    assert british("The colour is grey, and neighbours normalise towards the centre.") == [
        "colour", "grey", "neighbours", "normalise", "towards", "centre",
    ]  # fmt: skip
    assert (
        british(
            "A realistic student distills; `colour=` and labelled-digits-teacher are names; forwarding is fine."
        )
        == []
    )
