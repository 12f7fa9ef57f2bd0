"""Published notebooks: what MyST says in plain Markdown, on a small book and on all copies of the built one."""

import re
from pathlib import Path

import nbformat
import pytest
from book_plain import Plain
from conftest import ROOT, build_book
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import parse_file
from test_book import leads

from scripts.book import release

SITE = "https://somebody.github.io/course"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A book of two pages: an equation, a source, a title."""
    source = tmp_path_factory.mktemp("plain") / "src"
    (source / "book").mkdir(parents=True)
    (source / "index.md").write_text(
        "# Title\n\n```{toctree}\nbook/one\nbook/list\n```\n\n$$ a $$ (eq-a)\n\n$$ b $$ (eq-b)\n\n(here)=\n## Here\n"
    )
    (source / "book" / "one.md").write_text("# One page\n\n{cite}`song,three`\n")
    (source / "book" / "list.md").write_text("# Sources\n\n```{bibliography}\n```\n")
    (source / "a.bib").write_text(
        "@article{song, author={Song, Yang and Dhariwal, Prafulla}, title={A}, year=2024}\n"
        r"@article{three, author={K{\"a}hler, Eva and Ho, Jonathan and Song, Yang}, title={B}, year=2023}"
    )
    app, _ = build_book(
        source.parent,
        ["myst_parser", "sphinxcontrib.bibtex"],
        bibtex_bibfiles=["a.bib"],
        bibtex_reference_style="author_year",
        myst_enable_extensions=["dollarmath"],
        suppress_warnings=["config.cache"],
    )
    return Plain(app, SITE)


@pytest.mark.parametrize(
    ("myst", "markdown"),
    [
        ("{eq}`eq-b` says", f"[(2)]({SITE}/index.html#equation-eq-b) says"),
        ("$$\na = b\n$$ (eq-a)", "$$\na = b \\tag{1}$$"),
        ("{doc}`/book/one`, {doc}`it <one>`", f"[One page]({SITE}/book/one.html), [it]({SITE}/book/one.html)"),
        ("{ref}`here`", f"[Here]({SITE}/index.html#here)"),
        ("{chapter}`Two <two>`", "Two (planned)"),
        ("{chapter}`One <one>`", f"[One]({SITE}/book/one.html)"),
        ("{term}`the teacher <teacher>`", f"[the teacher]({SITE}/book/reference/glossary.html#term-teacher)"),
        ("{py:obj}`~cdedu.noise.karras_sigmas`", "`karras_sigmas`"),
        ("{new}`role`", "role"),
        ("[red]{.student} and `[b]{.c}`", "red and `[b]{.c}`"),
        ("[it](one.md#a), [far](https://a.b/c.md)", f"[it]({SITE}/book/one.html#a), [far](https://a.b/c.md)"),
        ("(tool-a)=\nsee [a](tool-a), $f[x](y)$", '<a id="tool-a"></a>\n\nsee [a](#tool-a), $f[x](y)$'),
        (":::{admonition} Predict\n:class: predict\n$a$?\n\n- b\n:::\nc", "> **Predict**\n>\n> $a$?\n>\n> - b\n\nc"),
        (
            ":::{admonition} Predict\n:class: predict\n$a$?\n\n- (a) b <!-- no: {eq}`eq-a`. -->\n- (b) c <!-- yes: So. -->\n:::",
            "> **Predict**\n>\n> $a$?\n>\n> - (a) b\n> - (b) c\n>\n> <details><summary><b>Compare with your answer</b></summary>\n>\n"
            f"> - (a) not quite. [(1)]({SITE}/index.html#equation-eq-a).\n> - (b) right. So.\n>\n> </details>",
        ),
        ("```{margin}\nAside.\n```", "> Aside."),
        ("```{note}\nA\n```", "> **Note**\n>\n> A"),
        (":::{admonition} A\n:class: b dropdown\nc\n:::", "<details><summary><b>A</b></summary>\n\nc\n\n</details>"),
        ("````{admonition} A\n```python\n{eq}`a`\n```\n````", "> **A**\n>\n> ```python\n> {eq}`a`\n> ```"),
        ("```{exercise} Two\n:label: ex-a\nDo it.\n```", "### Exercise: Two\n\nDo it."),
        ("```{exercise-start}\n:label: a\n```\nDo.\n```{exercise-end}\n```", "### Exercise\n\nDo."),
        ("````{solution-start} ex-a\n:class: dropdown\n````\nSo.", "#### Solution\n\nSo."),
        ("```{solution} ex-a\nSo.\n```", "<details><summary><b>Solution</b></summary>\n\nSo.\n\n</details>"),
        (
            "```{list-table}\n:header-rows: 1\n\n* -\n  - {eq}`eq-a`\n* - b\n  - c|d\n```",
            f"|  | [(1)]({SITE}/index.html#equation-eq-a) |\n| --- | --- |\n| b | c\\|d |",
        ),
        ("```{figure} ../a/b.png\n:alt: words\n\nWhat.\n```", f"![words]({SITE}/_images/b.png)\n\nWhat."),
        (
            "::::{div} live-generator\n```{raw} html\n<i>\n```\nStill.\n::::",
            f"*This runs in your browser on [the book's page]({SITE}/book/two.html).*\n\nStill.",
        ),
    ],
)  # fmt: skip
def test_myst_becomes_markdown(myst: str, markdown: str, plain: Plain) -> None:
    assert plain.text(myst, "book/two") == markdown


@pytest.mark.parametrize(
    ("myst", "there"),
    [
        ("{eq}`eq-b`", "[(2)](../index.html#equation-eq-b)"),
        ("{ref}`here`", "[Here](../index.html#here)"),
        ("{doc}`one`", "[One page](../book/one.html)"),
        ("{chapter}`One <one>`", "[One](../book/one.html)"),
        ("{term}`teacher`", "[teacher](../book/reference/glossary.html#term-teacher)"),
        ("[it](one.md#a)", "[it](../book/one.html#a)"),
        ("``{eq}`eq-b` ``", "``{eq}`eq-b` ``"),
    ],
)
def test_nothing_is_resolved_twice(myst: str, there: str, plain: Plain) -> None:
    """The links of slides are relative, and so look like links of the project."""
    relative = Plain.__new__(Plain)
    vars(relative).update(vars(plain), site="..")
    assert relative.text(myst, "book/two") == there


def test_sources_have_their_authors(plain: Plain) -> None:
    assert re.fullmatch(
        rf"\[\[Song and Dhariwal, 2024\]\({SITE}/book/list.html#\S+\); \[Kähler et al., 2023\]\(\S+\)\]",
        plain.text("{cite}`song,three`", "book/one"),
    )
    assert plain.text("{cite:t}`song`", "book/one").startswith("[Song and Dhariwal (2024)](")


def test_a_number_is_the_records(plain: Plain) -> None:
    import book_results as results

    text = "digits.json:metrics.ratio.student_1|.2f"
    assert plain.text(f"{{result}}`0 <{text}>`", "book/one") == results.find(text)[0]


def test_cells_are_folded_and_marks_for_tests_dropped(plain: Plain) -> None:
    nb = new_notebook(
        cells=[
            new_markdown_cell("```{solution-start} a\n```\nSo.", id="so"),
            new_code_cell("# NBVAL_CHECK_OUTPUT\n1", metadata={"tags": ["hide-input"]}, id="one"),
            new_markdown_cell("```{solution-end}\n```", id="end"),
        ]
    )
    copy = plain.notebook(nb, "book/one")
    nbformat.validate(copy)
    assert [cell.source for cell in copy.cells] == ["#### Solution\n\nSo.", "1"]
    assert copy.metadata.colab.collapsed_sections == [copy.cells[0].metadata.id] == ["so"]
    assert copy.cells[1].metadata.jupyter.source_hidden
    assert nb.cells[1].source.startswith("# NBVAL") and "jupyter" not in nb.cells[1].metadata, (
        "the source changed"
    )


@pytest.mark.book
def test_no_published_notebook_shows_its_markup(html: Path) -> None:
    copies = sorted((html / "notebooks").rglob("*.ipynb"))
    assert copies
    for path in copies:
        copy = nbformat.read(path, as_version=4)
        nbformat.validate(copy)
        name = path.relative_to(html / "notebooks").as_posix()
        source = nbformat.read(ROOT / name, as_version=4)
        codes = [[c.source for c in nb.cells if c.cell_type == "code"] for nb in (source, copy)]
        assert len(codes[0]) == len(codes[1]), f"{name} lost code"
        for cell in copy.cells:
            if cell.cell_type == "markdown":
                text = re.sub(r"^ *(`{3,}).*?^ *\1|`[^`\n]+`", "", cell.source, flags=re.M | re.S)
                left = re.search(
                    r"\{[\w:-]+\}`|^[ >]*(`{3,}|:{3,})|^\([\w-]+\)=|\$\$ ?\([\w-]+\)|\]\(\.", text, re.M
                )
                assert not left, f"{name} shows {text[left.start() : left.start() + 60]!r}"


@pytest.mark.book
def test_the_links_of_published_notebooks_resolve(html: Path) -> None:
    site, broken = release.published(), []
    for path in sorted((html / "notebooks").rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        anchors = set(re.findall(r'<a id="([\w-]+)">', text))
        for url in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]+`", "", text, flags=re.S)
        ):
            inside = url.startswith(site) and leads(html / "x", url.removeprefix(f"{site}/"))
            outside = re.match(r"https?:", url) and not url.startswith(site)
            if not (inside or outside or (url[0] == "#" and url[1:] in anchors)):
                broken.append(f"{path.name}: {url}")
    assert not broken


def test_no_two_sources_read_alike():
    """Years of the same authors end in a, b, ...: "Song et al., 2021" would be two papers."""
    seen: dict[tuple[str, ...], str] = {}
    for key, entry in parse_file(ROOT / "book" / "references.bib").entries.items():
        names = [" ".join((*a.prelast_names, *a.last_names)) for a in entry.persons.get("author", ())]
        words = (*(names if len(names) < 3 else names[:1]), "et al." * (len(names) > 2), entry.fields["year"])
        assert seen.setdefault(words, key) == key, words
