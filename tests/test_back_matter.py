"""The generated pages are what the executed notebooks and the registry say."""

import re

import back_matter

from icl_gd.book import claims


def test_generated_pages_are_up_to_date():
    assert (back_matter.BACK / "claims.md").read_text(encoding="utf-8") == back_matter.ledger()
    assert (back_matter.BACK / "figures.md").read_text(encoding="utf-8") == back_matter.figures()
    picture = back_matter.ROOT / "book" / "_static" / "readme.png"
    assert picture.read_bytes() == back_matter.picture()


def test_ledger_lists_every_claim_once():
    listed = re.findall(r"^- \*\*`([\w-]+)`\*\*", back_matter.ledger(), re.MULTILINE)
    assert sorted(listed) == sorted(claims.registry())


def test_figure_index_lists_every_figure():
    named = re.findall(r"\{ref\}`(fig-[\w-]+)`", back_matter.figures())
    texts = [page.read_text(encoding="utf-8") for page in back_matter.ROOT.glob("book/**/*.md")]
    written = re.findall(r"^    name: (fig-[\w-]+)$", "\n".join(texts), re.MULTILINE)
    assert sorted(named) == sorted(written)
