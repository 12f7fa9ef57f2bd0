"""Pictures of some pages, kept for whoever looks at the run: `_build/screenshots`, which CI stores. Needs `make book` first."""

from pathlib import Path
from typing import Any

import pytest
from conftest import HTML, daily
from PIL import Image

from scripts.book import screenshots

pytestmark = pytest.mark.book

FOLDER = HTML.parent / "screenshots"
PAGES = (
    "book/index",
    "book/undergraduate/04_consistency",
    "book/postgraduate/13_any_teacher",
    "exercises/04_consistency",
)


@pytest.mark.parametrize("page", daily(list(PAGES), "book/index"))
def test_a_page_is_pictured(page: str, html: Path, browser: Any) -> None:
    FOLDER.mkdir(exist_ok=True)
    for view, path in screenshots.take(browser, page, FOLDER).items():
        with Image.open(path) as picture:
            colors = picture.convert("RGB").resize((200, 400)).getcolors(80_000)
            assert picture.width >= screenshots.VIEWS[view][0], view
        assert len(colors) > 50, f"{view}: an empty page"
        dark = sum(n for n, (r, g, b) in colors if r + g + b < 200) > 40_000
        assert dark == (view == "dark"), view
