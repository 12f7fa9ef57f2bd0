"""MyST as plain Markdown: Colab and JupyterLab show neither roles nor directives, so published notebooks have none.

Roles become their text, with links to the published book; boxes become quotations, or folds where the book folds them; exercises and
their solutions become headings, the solutions folded. What is not known here keeps its words and loses its mark-up.
"""

import copy
import posixpath
import re
from typing import Any

import book_results as results
from nbformat import NotebookNode
from sphinx.application import Sphinx

FENCE = re.compile(r"(?P<fence>`{3,}|~{3,}|:{3,})(?:\{(?P<name>[\w:-]+)\})?\s*(?P<title>.*)")
OPTION = re.compile(r":([\w-]+):\s*(.*)")
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
TARGET = re.compile(r"(?P<text>.*?)\s*<(?P<target>[^<>]+)>\Z", re.S)
LABELLED = re.compile(r"\$\$((?:(?!\$\$).)*)\$\$ ?\(([\w-]+)\)", re.S)
# Links of the project and spans with a class; formulas and code are matched first, and kept.
LINK = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`|\]\((?!\w+:|#)(?P<link>[^)\s]+)\)|\[(?P<span>[^\]\n]+)\]\{[.#][^}\n]*\}",
    re.S,
)
ANCHOR = re.compile(r"^\(([\w-]+)\)=$", re.M)
CHECKED = re.compile(r"^# NBVAL_\w+\n", re.M)


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
        lines, out, run = source.split("\n"), [], []
        i = 0

        def flush() -> None:
            if run:
                out.append(self.inline("\n".join(run), page))
                run.clear()

        while i < len(lines):
            mark = FENCE.fullmatch(lines[i].strip())
            if not mark or (mark["fence"][0] == ":" and not mark["name"]):
                run.append(lines[i])
                i += 1
                continue
            end = _end(lines, i, mark["fence"])
            flush()
            if mark["name"]:
                out.append(self.directive(mark["name"], mark["title"], lines[i + 1 : end], page))
            else:
                out.append("\n".join(lines[i : end + 1]))
            i = end + 1
        flush()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()

    def directive(self, name: str, title: str, lines: list[str], page: str) -> str:
        """What stands for a directive."""
        options = {}
        while lines and (option := OPTION.fullmatch(lines[0].strip())):
            options[option[1]] = option[2]
            lines = lines[1:]
        if name in ("raw", "exercise-end", "solution-end", "contents", "bibliography"):
            return ""
        if name in ("code-block", "code"):
            return "\n".join([f"```{title}", *lines, "```"])
        if name == "math":
            label = f" ({options['label']})" if "label" in options else ""
            return self.inline("$$\n" + "\n".join(lines) + "\n$$" + label, page)
        if name in ("figure", "image"):
            caption = self.text("\n".join(lines), page)
            return (
                f"![{options.get('alt', '')}]({self.site}/_images/{posixpath.basename(title)})\n\n{caption}\n"
            )
        if name == "list-table":
            return self.table(lines, int(options.get("header-rows", 0)), page)
        body, title = self.text("\n".join(lines), page), self.inline(title, page)
        if name == "div":
            live = f"*This runs in your browser on [the book's page]({self.site}/{page}.html).*\n\n"
            return (live if "live-generator" in title else "") + body
        if name in ("exercise", "exercise-start"):
            return "\n" + f"### Exercise: {title}".removesuffix(": ") + f"\n\n{body}\n"
        if name == "solution-start":
            return f"#### Solution\n\n{body}"
        if name == "solution":
            title, options["class"] = "Solution", "dropdown"
        if name == "dropdown" or "dropdown" in options.get("class", ""):
            return f"\n<details><summary><b>{title}</b></summary>\n\n{body}\n\n</details>\n"
        if name not in ("admonition", "margin", "sidebar"):
            title = name.rpartition(":")[2].capitalize() + f" ({title})" * bool(title)
        quoted = (f"**{title}**\n\n" if title else "") + body
        return "\n" + "\n".join(f"> {line}".rstrip() for line in quoted.split("\n")) + "\n"

    def table(self, lines: list[str], heads: int, page: str) -> str:
        """A {list-table} with pipes; its first row is the head, for Markdown has no table without."""
        rows: list[list[str]] = []
        for line in lines:
            if new := re.match(r"\*\s+-\s?(.*)", line):
                rows.append([new[1]])
            elif more := re.match(r"\s+-\s?(.*)", line):
                rows[-1].append(more[1])
            elif line.strip() and rows:
                rows[-1][-1] += " " + line.strip()
        cells = [[self.inline(cell, page).replace("|", "\\|").strip() for cell in row] for row in rows]
        if not heads:
            cells.insert(0, [""] * max(map(len, cells)))
        cells.insert(1, ["---"] * len(cells[0]))
        return "\n" + "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"

    # --- within a line -----------------------------------------------------------------------------

    def inline(self, text: str, page: str) -> str:
        """Text without directives."""
        text = ROLE.sub(lambda role: self.role(role[1], role[2], page), text)
        text = LABELLED.sub(lambda m: f"$${m[1].rstrip()} \\tag{{{self.number(m[2])}}}$$", text)
        text = ANCHOR.sub(r'<a id="\1"></a>', text)

        def link(found: re.Match[str]) -> str:
            if found["link"]:
                return f"]({self.address(found['link'], page)})"
            return found["span"] or found[0]

        return LINK.sub(link, text)

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


def _end(lines: list[str], start: int, fence: str) -> int:
    """The line that closes the fence of line `start`."""
    for i in range(start + 1, len(lines)):
        line = lines[i].strip()
        if len(line) >= len(fence) and set(line) == {fence[0]}:
            return i
    return len(lines)
