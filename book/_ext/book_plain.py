"""MyST as plain Markdown: Colab and JupyterLab show neither roles nor directives, so published notebooks have none.

Roles become their text, with links to the published book; boxes become quotations, or folds where the book folds them; exercises and
their solutions become headings, the solutions folded. What is not known here keeps its words and loses its mark-up.
"""

import copy
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import book_answers as answers
import book_results as results
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from nbformat import NotebookNode
from sphinx.application import Sphinx

EXTENSIONS = {"amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath", "tasklist"}
PARSER = create_md_parser(MdParserConfig(enable_extensions=EXTENSIONS), RendererHTML)
DIRECTIVE = re.compile(r"\{([\w:-]+)\}\s*(.*)")
OPTION = re.compile(r":([\w-]+):\s*(.*)")
TARGET = re.compile(r"(?P<text>.*?)\s*<(?P<target>[^<>]+)>\Z", re.S)
# Roles, links of the project, and spans with a class. Formulas and code stand first, and are kept.
INLINE = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]+\$|\{(?P<role>[\w:-]+)\}`(?P<content>[^`]+)`|(?P<code>`+)[^`].*?(?<!`)(?P=code)(?!`)"
    r"|\]\((?!\w+:|#)(?P<link>[^)\s]+)\)|\[(?P<span>[^\]\n]+)\]\{[.#][^}\n]*\}",
    re.S,
)
CHECKED = re.compile(r"^# NBVAL_\w+\n", re.M)


def blocks(source: str) -> Iterator[tuple[Token, str]]:
    """The blocks of a text as MyST reads them, each with its source."""
    lines = source.split("\n")
    for token in PARSER.parse(source):
        if token.level == 0 and token.nesting >= 0 and token.map:
            yield token, "\n".join(lines[slice(*token.map)]).strip()


def directive(token: Token) -> tuple[str, str] | None:
    """Name and title of a directive; None for anything else, as a block of code."""
    found = DIRECTIVE.fullmatch(token.info.strip()) if token.type in ("fence", "colon_fence") else None
    return found and (found[1], found[2])


def options_of(content: str) -> tuple[dict[str, str], str]:
    """The options at the head of a directive, and the text below them."""
    options, lines = {}, content.split("\n")
    while lines and (option := OPTION.fullmatch(lines[0].strip())):
        options[option[1]] = option[2]
        lines = lines[1:]
    return options, "\n".join(lines).strip("\n")


class Plain:
    """The book as others see it: where its pages are, and what its references are called."""

    def __init__(self, app: Sphinx, site: str) -> None:
        self.env, self.site = app.env, site
        domaindata: Any = app.env.domaindata
        self.equations = domaindata["math"]["objects"]
        self.citations = {one.key: one for one in domaindata.get("cite", {}).get("citations", ())}

    def notebook(self, nb: NotebookNode, page: str) -> NotebookNode:
        """A copy of the notebook whose text any Jupyter shows."""
        nb = copy.deepcopy(nb)
        folded = []
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                cell.source = self.text(cell.source, page)
                if cell.source.startswith("#### Solution"):
                    folded.append(cell.id)
                    cell.metadata |= {"id": cell.id, "jp-MarkdownHeadingCollapsed": True}
            elif cell.cell_type == "code":
                cell.source = CHECKED.sub("", cell.source)
                if "hide-input" in cell.metadata.get("tags", ()):
                    cell.metadata |= {"jupyter": NotebookNode(source_hidden=True), "cellView": "form"}
        nb.cells = [cell for cell in nb.cells if cell.source.strip() or cell.cell_type != "markdown"]
        if folded:
            nb.metadata.colab = NotebookNode(collapsed_sections=folded)
        return nb

    # --- blocks ----------------------------------------------------------------------------------

    def text(self, source: str, page: str) -> str:
        """One cell, or the inside of a directive."""
        return "\n\n".join(filter(None, (self.block(*one, page) for one in blocks(source))))

    def block(self, token: Token, raw: str, page: str) -> str:
        if named := directive(token):
            return self.directive(*named, token.content, page).strip()
        if token.type == "myst_target":
            return f'<a id="{token.content}"></a>'
        if token.type == "math_block_label":
            return f"$${token.content.rstrip()} \\tag{{{self.number(token.info)}}}$$"
        if token.type in ("fence", "code_block", "math_block", "amsmath"):
            return raw
        return "" if token.type == "myst_line_comment" else self.inline(raw, page)

    def directive(self, name: str, title: str, content: str, page: str) -> str:
        """What stands for a directive."""
        options, content = options_of(content)
        if name in ("raw", "exercise-end", "solution-end", "contents", "bibliography"):
            return ""
        if name in ("code-block", "code"):
            return f"```{title}\n{content}\n```"
        if name == "math":
            label = f" ({options['label']})" if "label" in options else ""
            return self.text(f"$$\n{content}\n$${label}", page)
        if name in ("figure", "image"):
            picture = f"{self.site}/_images/{posixpath.basename(title)}"
            return f"![{options.get('alt', '')}]({picture})\n\n{self.text(content, page)}"
        if name == "list-table":
            return self.table(content, int(options.get("header-rows", 0)), page)
        body, title = self.text(answers.folded(content), page), self.inline(title, page)
        if name == "div":
            live = f"*This runs in your browser on [the book's page]({self.site}/{page}.html).*\n\n"
            return (live if "live-" in title else "") + body
        if name in ("exercise", "exercise-start"):
            return f"### Exercise: {title}".removesuffix(": ") + f"\n\n{body}"
        if name == "solution-start":
            return f"#### Solution\n\n{body}"
        if name == "solution":
            title, options["class"] = "Solution", "dropdown"
        if name == "dropdown" or "dropdown" in options.get("class", ""):
            return f"<details><summary><b>{title}</b></summary>\n\n{body}\n\n</details>"
        if name not in ("admonition", "margin", "sidebar"):
            title = name.rpartition(":")[2].capitalize() + f" ({title})" * bool(title)
        quoted = (f"**{title}**\n\n" if title else "") + body
        return "\n".join(f"> {line}".rstrip() for line in quoted.split("\n"))

    def table(self, content: str, heads: int, page: str) -> str:
        """A {list-table} with pipes; its first row is the head, for Markdown has no table without."""
        rows = SyntaxTreeNode(PARSER.parse(content)).children[0].children
        cells = [[self.cell(one, page) for one in row.children[0].children] for row in rows]
        if not heads:
            cells.insert(0, [""] * max(map(len, cells)))
        cells.insert(1, ["---"] * len(cells[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    def cell(self, item: SyntaxTreeNode, page: str) -> str:
        words = " ".join(one.content for one in item.walk() if one.type == "inline")
        return " ".join(self.inline(words, page).split()).replace("|", "\\|")

    # --- within a line -----------------------------------------------------------------------------

    def inline(self, text: str, page: str) -> str:
        """Text without directives, in one pass, so that nothing is resolved twice."""

        def plain(found: re.Match[str]) -> str:
            if found["role"]:
                return self.role(found["role"], found["content"], page)
            if found["link"]:
                return f"]({self.address(found['link'], page)})"
            return self.inline(found["span"], page) if found["span"] else found[0]

        return INLINE.sub(plain, text)

    def role(self, name: str, content: str, page: str) -> str:
        """The words of a role, linked where the book links them."""
        content = " ".join(content.split())
        named = TARGET.match(content)
        shown, target = (named["text"], named["target"]) if named else ("", content)
        if name == "result":
            return results.find(content)[0]
        if name == "chapter":
            there = f"book/{target}"
            return f"[{shown}]({self.url(there)})" if there in self.env.found_docs else f"{shown} (planned)"
        if name == "eq":
            there = self.equations[target][0] if target in self.equations else page
            return f"[({self.number(target)})]({self.url(there, f'equation-{target}')})"
        if name in ("cite", "cite:p"):
            return f"[{'; '.join(self.cite(key.strip(), ', ') for key in content.split(','))}]"
        if name == "cite:t":
            return ", ".join(self.cite(key.strip(), " ") for key in content.split(","))
        if name == "doc":
            there = self.page(target, page)
            if there not in self.env.titles:
                return shown or target  # the build has warned
            return f"[{shown or self.env.titles[there].astext()}]({self.url(there)})"
        if name in ("ref", "numref"):
            there, anchor, title = self.env.domaindata["std"]["labels"].get(target, (page, "", target))
            return f"[{shown or title}]({self.url(there, anchor)})"
        if name == "term":
            words = shown or target
            return f"[{words}]({self.url('book/reference/glossary', 'term-' + target.replace(' ', '-'))})"
        if name.startswith("py:"):
            return f"`{shown or (target.rpartition('.')[2] if target.startswith('~') else target)}`"
        return shown or target

    def number(self, label: str) -> str:
        return str(self.equations[label][1]) if label in self.equations else label

    def cite(self, key: str, comma: str) -> str:
        """Song et al., 2023"""
        source = self.citations.get(key)
        if source is None:
            return key
        authors = source.entry.persons.get("author", ())
        names = [" ".join(map(str, (*a.rich_prelast_names, *a.rich_last_names))) for a in authors]
        who, year = (
            " and ".join(names) if len(names) < 3 else f"{names[0]} et al.",
            source.entry.fields.get("year", ""),
        )
        link = self.url(source.bibliography_key.docname, source.citation_id)
        words = f"{who}{comma}{year}" if comma == ", " else f"{who} ({year})"
        return f"[{words}]({link})"

    def page(self, target: str, page: str) -> str:
        """The document that a path names, from the root or from `page`."""
        if target.startswith("/"):
            return target.lstrip("/")
        return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))

    def url(self, page: str, anchor: str = "") -> str:
        return f"{self.site}/{page}.html" + f"#{anchor}" * bool(anchor)

    def address(self, link: str, page: str) -> str:
        """Where a link from one file of the project to another leads outside of it."""
        path, _, anchor = link.partition("#")
        there = re.sub(r"\.(ipynb|md)\Z", "", self.page(path, page))
        if there in self.env.found_docs:
            return self.url(there, anchor)
        if "/" not in link and "." not in link:
            return f"#{link}"  # a label of this page
        picture = path.endswith((".png", ".svg", ".jpg"))
        return f"{self.site}/_images/{posixpath.basename(path)}" if picture else f"{self.site}/{there}"
