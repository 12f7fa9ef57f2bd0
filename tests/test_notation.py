"""The page of notation explains every symbol of every labelled equation. Pure text: nothing of the package is imported."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "reference" / "notation.md"

GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|pi|varpi|rho|sigma|tau|upsilon|phi|"
    "varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|ell|nabla|varnothing"
)
WORDS = re.compile(r"\\(?:text|mathrm|operatorname\*?|begin|end)\s*\{([^{}]*)\}")
SYMBOL = re.compile(
    r"(?:\\(?P<accent>hat|bar|tilde|dot|vec)(?![A-Za-z])\s*\{?\s*|\\(?P<font>mathcal|mathbb|mathbf)\s*\{?\s*)?"
    rf"(?P<base>\\(?:{GREEK})(?![A-Za-z])|(?<![\\A-Za-z])[A-Za-z])"
    r"\s*\}?(?:\s*_\s*(?P<below>\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z0-9]))?"
)
MEANT = re.compile(r"[0-9]|d|\\theta|\\phi|\\psi|@\w+")
"""Indices below a symbol that make another symbol of it: a digit, the d of σ_d, weights, a word. Others only count: i, t, σ."""


def symbols(formula: str) -> set[str]:
    r"""What has a meaning of its own in a formula: letters with their accents, and with indices that belong to their names.

    >>> sorted(symbols(r"\hat x_0 + \sigma_d c_\text{in} \ln f_\theta(x_{\sigma_{i+1}})"))
    ['\\hat x_0', '\\sigma', '\\sigma_d', 'c_@in', 'f_\\theta', 'i', 'x']
    """
    formula = re.sub(r"_\s*\\(?:text|mathrm|operatorname)\s*\{(\w+)[^{}]*\}", r"_{@\1}", formula)
    formula = re.sub(r"_\s*\{\s*\\(?:text|mathrm|operatorname)\s*\{(\w+)[^{}]*\}\s*\}", r"_{@\1}", formula)
    formula = WORDS.sub(" ", formula)
    found = set()
    for one in SYMBOL.finditer(formula):
        name = one["base"]
        if kind := one["accent"] or one["font"]:
            name = f"\\{kind} {name}"
        below = (one["below"] or "").strip("{} ")
        if below and MEANT.fullmatch(below):
            name += f"_{below}"
        found.add(name)
        if below and not MEANT.fullmatch(below) and "@" not in below:
            found |= {s for s in symbols(below) if not MEANT.fullmatch(s.removeprefix("\\"))}
    return {re.sub(r"\s+", " ", name) for name in found}


def labelled(text: str) -> dict[str, str]:
    """Label → formula, of ``$$ ... $$ (label)`` in Markdown."""
    parts, found = text.split("$$"), {}
    for i in range(1, len(parts) - 1, 2):
        if label := re.match(r"[ \t]*\((eq-[\w-]+)\)", parts[i + 1]):
            found[label[1]] = parts[i]
    return found


def equations() -> dict[str, str]:
    """All labelled equations of the book."""
    found = {}
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                found |= labelled("".join(cell["source"]))
    return found


def explained(page: str) -> set[str]:
    """Symbols in the first column of the page's tables."""
    rows = [line for line in page.splitlines() if re.match(r"\|[^|-]*\$", line)]
    formulas = re.findall(r"\$([^$]+)\$", "\n".join(row.split("|")[1] for row in rows))
    return set().union(*map(symbols, formulas))


def test_every_symbol_of_a_labelled_equation_is_on_the_page():
    known = explained(PAGE.read_text(encoding="utf-8"))
    lacking = {label: sorted(symbols(formula) - known) for label, formula in equations().items()}
    assert {label: names for label, names in lacking.items() if names} == {}


def test_all_labelled_equations_are_looked_at():
    listed = yaml.safe_load((ROOT / "book" / "equations.yml").read_text(encoding="utf-8"))
    assert set(equations()) == set(listed)


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        (r"\hat x_0 + \sigma_d\, c_\text{in}", {r"\hat x_0", r"\sigma_d", "c_@in"}),
        (r"f_\theta(x_{\sigma_{i+1}}, \sigma_i)", {r"f_\theta", "x", r"\sigma", "i"}),
        (r"\dots \sqrt{s} \log p", {"s", "p"}),
        (r"\mathbb{E}[x_0] \sim \mathcal N", {r"\mathbb E", "x_0", r"\mathcal N"}),
        (r"\begin{aligned} G(x, \sigma, s) &= u \end{aligned}", {"G", "x", r"\sigma", "s", "u"}),
    ],
)
def test_symbols_are_read_from_formulas(formula, names):
    assert symbols(formula) == names


def test_a_symbol_that_the_page_lacks_is_noticed():
    page = PAGE.read_text(encoding="utf-8")
    assert r"\rho" in explained(page)
    without = re.sub(r"^\| \$\\rho.*\n", "", page, flags=re.MULTILINE)
    assert without != page and r"\rho" not in explained(without)
