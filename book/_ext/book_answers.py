"""Questions that are answered on the page: options of the predict boxes, and the closing quizzes.

An option of a predict box has in a comment whether it is right, and what is to be said to those who choose it::

    :::{admonition} Predict
    :class: predict
    Three noise levels. Where do the arrows end?

    - (a) On the data points <!-- no: Only where the noise is small. -->
    - (b) Between them <!-- yes: The best guess is a mean, and a mean lies between. -->
    :::

Jupyter shows the list without the comments; published notebooks have the sentences in a fold, slides in the speaker's notes. On the
page ``book/_static/live/answers.js`` makes buttons of the list. The cell that asks a quiz has the tag ``quiz``: on the page its
output, which stays for paper, is followed by the quizzes of a few seeds for the same script.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from docutils import nodes
from docutils.parsers.rst.directives.admonitions import Admonition
from docutils.statemachine import StringList
from markdown_it import MarkdownIt
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

OPTION = re.compile(
    r"^- (?P<option>\((?P<letter>[a-e])\) .*?) *<!-- (?P<verdict>yes|no): (?P<why>.*?) -->\n?", re.M
)
SEEDS = range(1, 6)
"""The draws of a quiz that its page has; the notebook shows the first."""


class Box(NamedTuple):
    """The inside of a box with options."""

    before: str
    options: list[re.Match[str]]
    after: str


def box(content: str) -> Box | None:
    """A box's text in its parts; None if it has no options."""
    found = list(OPTION.finditer(content))
    return Box(content[: found[0].start()], found, content[found[-1].end() :]) if found else None


def problems(found: Box) -> Iterator[str]:
    """What is wrong with a box."""
    if [one["verdict"] for one in found.options].count("yes") != 1:
        yield "a box with options has one that is right"
    if "".join(one["letter"] for one in found.options) != "abcde"[: len(found.options)]:
        yield "the options of a box are (a), (b), (c) and so on"
    ends = [found.options[0].start(), *(one.end() for one in found.options)]
    if [one.start() for one in found.options] != ends[:-1]:
        yield "the options of a box stand in one list, each with its comment"


def asked(content: str) -> str:
    """The question and its options, without what is said of them."""
    return OPTION.sub(lambda one: f"- {one['option']}\n", content).strip("\n")


def said(content: str) -> str:
    """What is said of the options, as a list; nothing if there are none."""
    words = {"yes": "right", "no": "not quite"}
    return "\n".join(
        f"- ({one['letter']}) {words[one['verdict']]}. {one['why']}" for one in OPTION.finditer(content)
    )


def folded(content: str) -> str:
    """The question with its options, and a fold with what is said of them."""
    found = box(content)
    if not found:
        return content
    fold = f"```{{dropdown}} Compare with your answer\n{said(content)}\n```"
    return f"{asked(content)}\n\n{fold}"


class Predict(Admonition):
    """{admonition}; where it has options, they go into a ``live-answers``, each with its sentence in a fold."""

    def run(self) -> list[nodes.Node]:
        found = box("\n".join(self.content))
        if not found:
            return list(super().run())
        for problem in problems(found):
            source, line = self.state_machine.get_source_and_line(self.lineno)
            logger.warning("%s", problem, location=f"{source}:{line}")
        name = hashlib.sha256("\n".join(self.content).encode()).hexdigest()[:12]
        self.content = lines(found.before)
        made = list(super().run())
        listed = nodes.bullet_list()
        for one in found.options:
            item = nodes.list_item()
            self.state.nested_parse(lines(one["option"]), self.content_offset, item)
            right = " data-right" if one["verdict"] == "yes" else ""
            fold = f'<details class="answer-said"{right}><summary>Compare</summary>'
            item += nodes.raw("", fold, format="html")
            self.state.nested_parse(lines(one["why"]), self.content_offset, item)
            item += nodes.raw("", "</details>", format="html")
            listed += item
        made[0] += nodes.raw("", f'<div class="live-answers" data-name="{name}">', format="html")
        made[0] += [listed, nodes.raw("", "</div>", format="html")]
        self.state.nested_parse(lines(found.after), self.content_offset, made[0])
        return made


def lines(text: str) -> StringList:
    return StringList(text.split("\n"), source="")


# --- quizzes -----------------------------------------------------------------------------------------


def add_quiz(app: Sphinx, doctree: nodes.document) -> None:
    """The quizzes of a few seeds below the stored output of the cell that asks one."""
    for cell in doctree.findall(nodes.container):
        if "tag_quiz" not in cell["classes"]:
            continue
        track = app.env.docname.rpartition("quiz_")[2]
        output = next(one for one in cell.children if "cell_output" in one["classes"])
        output["classes"].append("live-answers")
        output += nodes.raw(
            "", f'<script type="application/json">"{encoded(quizzes(app, track))}"</script>', format="html"
        )


def quizzes(app: Sphinx, track: str) -> dict[str, Any]:
    """What the page must know: each draw's questions, and a name for the reader's answers, another when a question changes."""
    from cdedu.course.quiz import Quiz

    draws = {seed: [shown(app, one) for one in Quiz(track, seed).data()] for seed in SEEDS}
    name = hashlib.sha256(json.dumps(draws).encode()).hexdigest()[:12]
    return {"name": name, "draws": draws}


def shown(app: Sphinx, question: dict[str, Any]) -> dict[str, Any]:
    """A question as the page shows it: texts as HTML, and a link to the chapter."""
    inline = MarkdownIt().renderInline
    out = question | {"text": inline(question["text"]), "why": inline(question["why"])}
    out["link"] = app.builder.get_relative_uri(app.env.docname, f"book/{question['page']}")
    if "options" in out:
        out["options"] = [inline(one) for one in out["options"]]
        out["said"] = [inline(one) for one in out["said"]]
    else:
        out["wrong"] = [[value, inline(words)] for value, words in out["wrong"]]
    return out


def encoded(data: Any) -> str:
    """So that nobody reads the answers by accident. Who wants to read them can: the key is on the page as well."""
    return base64.b64encode(json.dumps(data, ensure_ascii=False).encode()).decode()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("admonition", Predict, override=True)
    app.connect("doctree-read", add_quiz)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
