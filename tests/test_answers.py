"""Questions that are answered on the page: what the boxes become, and that a browser judges as the package does."""

import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import book_answers as answers
import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import PATIENCE, ROOT, build_book
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_accessibility import AXE, COLOURS, OPTIONS, THEME

import cdedu.course.quiz as quizzes

STATIC = ROOT / "book" / "_static"
SEEDS = range(60)
BOX = """:::{admonition} Predict
:class: predict
Where is $x$?

- (a) On the *left* <!-- no: It was there, and has left. -->
- (b) At $x = 1$ <!-- yes: Since $1 + 0 = 1$, it is. -->
- (c) Nowhere <!-- no: It has to be somewhere. -->

Then look.
:::"""
OPEN = ":::{admonition} Predict\n:class: predict\nDraw it.\n:::"
PAGE = "quiz_undergraduate"
SHELL = f"""<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>T</title>
<style>
html {{ --pst-color-background: #fff; --pst-color-text-base: #222832; --pst-color-border: #c9c9c9; --pst-color-link: #0055b7; }}
html[data-theme="dark"] {{ --pst-color-background: #14181e; --pst-color-text-base: #ced6dd; --pst-color-border: #48566b; }}
html[data-theme="dark"] {{ --pst-color-link: #5dadec; }}
body {{ background: var(--pst-color-background); color: var(--pst-color-text-base); }}
a {{ color: var(--pst-color-link); }}
</style>
<link rel="stylesheet" href="{STATIC.as_uri()}/course.css">
<link rel="stylesheet" href="{STATIC.as_uri()}/live/parts.css">
<link rel="stylesheet" href="{STATIC.as_uri()}/live/answers.css">
<script defer src="{STATIC.as_uri()}/live/common.js"></script>
<script defer src="{STATIC.as_uri()}/live/answers.js"></script>
</head><body>BODY</body></html>"""
"""What the theme and book_page put around a page, as far as such boxes need it."""


# --- the source --------------------------------------------------------------------------------------


def boxes() -> Iterator[tuple[str, str]]:
    """Where each predict box of the chapters stands, and what is in it."""
    found = re.compile(r"^(:{3,})\{admonition\}[^\n]*\n:class: predict\n(.*?)\n\1$", re.M | re.S)
    for path in sorted((ROOT / "book").glob("*graduate/*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for i, one in enumerate(found.finditer(cell.source)):
                    yield f"{path.stem} {cell.id} {i}", one[2]


BOXES = dict(boxes())
WITH_OPTIONS = {where: found for where, text in BOXES.items() if (found := answers.box(text))}


def test_every_box_with_options_has_one_right_and_a_reason_for_each() -> None:
    assert len(WITH_OPTIONS) > 40
    for where, text in BOXES.items():
        found = WITH_OPTIONS.get(where)
        assert text.count("<!--") == (len(found.options) if found else 0), f"{where}: not all are options"
        if found:
            assert not list(answers.problems(found)), where
            reasons = [one["why"] for one in found.options]
            assert len(reasons) >= 3 and len(set(reasons)) == len(reasons), where
            assert all(len(why) > 15 and why[-1] in ".?" for why in reasons), where
            assert found.before.strip().endswith(("?", ".")), f"{where}: the question is missing"


def test_no_letter_is_right_much_more_often_than_others() -> None:
    right = [
        one["letter"] for found in WITH_OPTIONS.values() for one in found.options if one["verdict"] == "yes"
    ]
    assert all(right.count(letter) > 0.2 * len(right) for letter in "abc")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (BOX.replace("yes:", "no:"), "one that is right"),
        (BOX.replace("<!-- no: It was", "<!-- yes: It was"), "one that is right"),
        (BOX.replace("(c)", "(d)"), "are (a), (b), (c)"),
        (BOX.replace("- (c)", "- (c) Or\n- (c)"), "stand in one list"),
    ],
)
def test_a_box_that_is_wrong_is_named(box: str, words: str) -> None:
    assert words in " ".join(answers.problems(answers.box(box)))


def test_jupyter_sees_the_question_and_the_speaker_the_answers() -> None:
    assert "<!--" not in answers.asked(BOX) and "- (b) At $x = 1$\n" in answers.asked(BOX)
    assert answers.said(BOX).splitlines()[1] == "- (b) right. Since $1 + 0 = 1$, it is."
    assert answers.folded(OPEN) == OPEN and answers.said(OPEN) == ""


# --- a small book ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with two boxes, one with a box that is wrong, and one with a quiz, with the scripts that book_page gives to such pages."""
    root = tmp_path_factory.mktemp("answers")
    (root / "src").mkdir()
    (root / "src" / "index.md").write_text(
        f"# Title\n\n```{{toctree}}\n{PAGE}\nwrong\n```\n\n{BOX}\n\n{OPEN}\n"
    )
    (root / "src" / "wrong.md").write_text("# Wrong\n\n" + BOX.replace("yes:", "no:") + "\n")
    sheet = quizzes.Quiz("undergraduate", 1).ask()
    output = new_output(
        "execute_result", data={"text/markdown": str(sheet), "text/plain": str(sheet)}, execution_count=1
    )
    cells = [
        new_markdown_cell("# Quiz"),
        new_code_cell("quiz.ask()", outputs=[output], metadata={"tags": ["quiz"]}),
    ]
    python = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(new_notebook(cells=cells, metadata=python), root / "src" / f"{PAGE}.ipynb")
    _, warnings = build_book(
        root,
        ["myst_nb", "book_answers"],
        source_suffix={".md": "myst-nb", ".ipynb": "myst-nb"},
        nb_execution_mode="off",
        myst_enable_extensions=["colon_fence", "dollarmath"],
        suppress_warnings=["config.cache"],
    )
    (root / "warnings").write_text(warnings)
    for page in (root / "html").glob("*.html"):
        body = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select_one("[role=main]")
        page.write_text(SHELL.replace("BODY", str(body)), encoding="utf-8")
    return root / "html"


def test_a_box_that_is_wrong_stops_the_build(book: Path) -> None:
    (warning,) = (book.parent / "warnings").read_text().strip().splitlines()
    assert "wrong.md:3" in warning and "one that is right" in warning


def test_without_the_script_there_is_a_list_with_folds(book: Path) -> None:
    text = (book / "index.html").read_text(encoding="utf-8")
    assert text.count("<details") == 3 == text.count("</details>") and text.count("data-right") == 1
    assert text.index("(a) On the <em>left</em>") < text.index("It was there") < text.index("Then look.")


def test_a_quiz_is_light_and_its_answers_are_not_read_by_accident(book: Path) -> None:
    text = (book / f"{PAGE}.html").read_text(encoding="utf-8")
    whys = [one["why"] for one in quizzes.Quiz("undergraduate", 1).data()]
    assert not [why for why in whys if why in text]
    data = re.search(r'<script type="application/json">(.*?)</script>', text)
    assert data is not None and len(gzip.compress(data[1].encode())) < 40_000


# --- in the browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_page(browser: Any, book: Path) -> Iterator[Callable[..., Any]]:
    """A page from disk, with the network cut and a list of what went wrong."""
    contexts = []

    def open_one(name: str = "index", script: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.route(lambda url: not url.startswith(("file:", "data:")), lambda route: route.abort())
        tab = context.new_page()
        tab.errors = []
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        if script:
            tab.add_init_script(script)
        tab.goto((book / f"{name}.html").as_uri())
        return tab

    yield open_one
    for context in contexts:
        context.close()


def options_of(tab: Any, which: int = 0) -> Any:
    return tab.locator(".answer-options").nth(which).locator("button")


def said(tab: Any, which: int = 0) -> str:
    return " ".join(tab.locator("[role=status]").nth(which).inner_text().split())


def violations(tab: Any) -> list[str]:
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = []
    for theme, options in (("light", OPTIONS), ("dark", COLOURS)):
        tab.evaluate(THEME, theme)
        there = tab.evaluate("options => axe.run('.live-part', options)", options)["violations"]
        found += [f"{theme}: {one['id']}: {node['html'][:150]}" for one in there for node in one["nodes"]]
    return found


def test_a_wrong_choice_is_thought_over_and_the_right_one_explained(open_page: Callable[..., Any]) -> None:
    tab = open_page(viewport={"width": 390, "height": 800})
    buttons, forget = options_of(tab), tab.get_by_text("Forget my answer")
    assert buttons.count() == 3 and tab.locator(".live-part").count() == 1 and said(tab) == ""
    assert not tab.locator("li").get_by_text("(a)").is_visible() and not forget.is_visible()
    buttons.nth(0).click()
    assert said(tab) == "✗ Not quite. It was there, and has left. Think again, and choose another."
    assert [buttons.nth(i).get_attribute("aria-pressed") for i in range(3)] == ["true", "false", "false"]
    assert [buttons.nth(i).get_attribute("data-tried") for i in range(3)] == ["wrong", "", ""]
    assert "✓" not in tab.locator(".answer-options").inner_text()
    buttons.nth(1).focus()  # and from here on without a mouse
    tab.keyboard.press("Space")
    assert said(tab).startswith("✓ Right. Since") and "Think" not in said(tab)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert said(tab) == "✗ Not quite. It has to be somewhere."
    assert not violations(tab)
    tab.reload()
    assert said(tab) == "✗ Not quite. It has to be somewhere.", "an answer is kept"
    assert options_of(tab).nth(1).get_attribute("data-tried") == "right"
    tab.get_by_text("Forget my answer").press("Enter")
    assert said(tab) == "" and tab.evaluate("document.activeElement.textContent.startsWith('(a)')")
    assert tab.evaluate("localStorage.length") == 0 and not tab.errors


def test_where_nothing_may_be_kept_it_works_and_forgets(open_page: Callable[..., Any]) -> None:
    tab = open_page(
        script="Object.defineProperty(window, 'localStorage', { get() { throw new Error('no') } })"
    )
    options_of(tab).nth(1).click()
    assert "Right" in said(tab) and not tab.errors
    tab.get_by_text("Forget my answer").click()
    assert said(tab) == "" and not tab.errors


def test_without_javascript_and_on_paper_there_is_the_list(open_page: Callable[..., Any]) -> None:
    bare = open_page(java_script_enabled=False)
    assert bare.locator("details").count() == 3 and not bare.get_by_text("It was there").is_visible()
    bare.locator("summary").first.click()
    assert bare.get_by_text("It was there").is_visible()
    tab = open_page()
    tab.emulate_media(media="print")
    assert tab.locator("li").get_by_text("(c) Nowhere").is_visible()
    assert not options_of(tab).first.is_visible() and not tab.locator("summary").first.is_visible()


def test_a_quiz_is_answered_kept_and_begun_again(open_page: Callable[..., Any]) -> None:
    tab = open_page(PAGE, viewport={"width": 390, "height": 800})
    quiz, asked = quizzes.Quiz("undergraduate", 1), quizzes.Quiz("undergraduate", 1).data()
    assert tab.locator(".answer-quiz > li").count() == 20 and "of 20" not in tab.locator("body").inner_text()
    first = next(i for i, one in enumerate(asked) if "options" in one)
    number = next(i for i, one in enumerate(asked) if "options" not in one)
    rows = tab.locator(".answer-quiz > li")
    wrong = (asked[first]["right"] + 1) % 4
    rows.nth(first).locator("button").nth(wrong).click()
    told = rows.nth(first).locator("[role=status]").inner_text()
    assert asked[first]["said"][wrong] in told and "See chapter" in told and "Think again" in told
    assert tab.locator(".answer-score").inner_text().startswith("0 of 20 right on the first try; 20 to go.")
    rows.nth(first).locator("button").nth(asked[first]["right"]).click()
    field = rows.nth(number).locator("input")
    field.fill("many")
    field.press("Enter")
    assert "Write a number" in rows.nth(number).locator("[role=status]").inner_text()
    field.fill(f"{asked[number]['right']:.4f}".replace(".", ","))
    field.press("Enter")
    assert asked[number]["why"] in rows.nth(number).locator("[role=status]").inner_text()
    score = "1 of 20 right on the first try, 1 more after thinking again; 18 to go."
    assert tab.locator(".answer-score p").inner_text() == score
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and not violations(tab)
    tab.reload()
    assert tab.locator(".answer-score p").inner_text() == score
    tab.locator("select").select_option("3")
    assert not tab.locator(".answer-score").is_visible() and "quiz.seed=3" in tab.url
    shown = [text.split("\n")[0] for text in tab.locator(".answer-quiz > li").all_inner_texts()]
    assert shown == [one["text"] for one in quizzes.Quiz("undergraduate", 3).data()]
    tab.reload()
    assert tab.locator("select").input_value() == "3"
    tab.locator("select").select_option("1")
    tab.get_by_text("Start over").click()
    assert not tab.locator(".answer-score").is_visible() and tab.evaluate("localStorage.length") == 0
    assert not tab.errors and quiz.names


def tried(quiz: Any) -> list[list[Any]]:
    """What a class might answer to each question: every option, or numbers known, on both sides of the tolerance, and far off."""
    draw, found = random.Random(quiz.seed), []
    for one in quiz.data():
        if "options" in one:
            found.append(list(range(4)))
            continue
        known = [float(value) for value in (one["right"], *(value for value, _ in one["wrong"]))]
        near = [
            value * (1 + sign * one["tolerance"] * side)
            for value in known
            for sign in (1, -1)
            for side in (0.98, 1.02)
        ]
        found.append([*known, *near, draw.uniform(-100, 100), 12345.678, 0.0])
    return found


JUDGE = """(text) => {
    const [draws, given] = JSON.parse(text);
    const one = (question, value) => [
        live.answers.outcome(question, [question.options ? value : String(value)]) === "first",
        question.options ? question.said[value] : live.answers.judge(question, value).said,
    ];
    return JSON.stringify(draws.map((quiz, d) => quiz.map((question, i) => given[d][i].map((value) => one(question, value)))));
}"""


@pytest.mark.parametrize("track", quizzes.TRACKS)
def test_the_page_judges_as_the_package_does(track: str, open_page: Callable[..., Any]) -> None:
    tab, count = open_page(PAGE), 0
    draws = [quizzes.Quiz(track, seed) for seed in SEEDS]
    given = [tried(quiz) for quiz in draws]
    asked = json.dumps([[quiz.data() for quiz in draws], given])  # a text travels faster than its objects
    found = json.loads(tab.evaluate(JUDGE, asked))
    for quiz, values, judged in zip(draws, given, found, strict=True):
        for asked, row, by_page in zip(quiz._asked, values, judged, strict=True):
            for value, (right, words) in zip(row, by_page, strict=True):
                verdict = asked.judge("abcd"[value] if asked.options else value, 1)
                assert (right, words) == (verdict.right, verdict.message), (
                    quiz.seed,
                    asked.question.name,
                    value,
                )
                count += 1
    assert count > 6000


def test_a_number_is_read_with_a_comma_or_a_point(open_page: Callable[..., Any]) -> None:
    numbers = {
        "0.46": [0.46],
        " 0,46 ": [0.46, 46],
        "−3": [-3],
        "1,343.5": [1343.5],
        "2,500": [2.5, 2500],
        "1e-3": [0.001],
        ".5": [0.5],
        **dict.fromkeys(["", "half", "1 of 2", "Infinity", "0x10"], []),
    }
    tab = open_page(PAGE)
    assert tab.evaluate("texts => texts.map(live.answers.readings)", list(numbers)) == list(numbers.values())
