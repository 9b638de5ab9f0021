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


def test_tables_count_every_claim_and_name_the_tightest():
    lines = re.findall(r"^\| \{doc\}.+\|$", back_matter.ledger(), re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]
    counts = [[int(n or 0) for n in row] for row in rows if len(row) == len(claims.KINDS) + 1]
    kinds = [entry["kind"] for entry in claims.registry().values()]
    by_kind = [kinds.count(kind) for kind in claims.KINDS]
    assert [sum(column) for column in zip(*counts, strict=True)] == [*by_kind, len(kinds)]
    edges = [row for row in rows if len(row) == 2]
    assert len(edges) == len(counts)
    shares = [re.findall(r"\((.+?)\)", " ".join(row)) for row in edges]
    assert all(float(used) <= 1 < float(missed) for used, missed in filter(lambda s: s[1:], shares))


def test_tightest_claim_has_the_largest_gap_and_the_nearest_exclusion():
    tolerance = claims.registry()["own-quarter"]["tolerance"]
    records = [
        {"id": "own-quarter", "gap": f"{tolerance / 5}", "missed": f"{4 * tolerance}"},
        {"id": "own-ones-minimum", "gap": "0", "missed": "1"},
        {"id": "olsson-together", "gap": "-25"},  # a bound
    ]
    assert back_matter.edges(records) == ["`own-quarter` (0.2)", "`own-quarter` (4)"]
    assert back_matter.edges(records[2:]) == ["\N{EM DASH}"] * 2


def test_figure_index_lists_every_figure():
    named = re.findall(r"\{numref\}`(fig-[\w-]+)`\. ", back_matter.figures())
    texts = [page.read_text(encoding="utf-8") for page in back_matter.ROOT.glob("book/**/*.md")]
    written = re.findall(r"^    name: (fig-[\w-]+)$", "\n".join(texts), re.MULTILINE)
    assert sorted(named) == sorted(written)


def test_a_caption_opens_with_its_first_sentence():
    left = "Left: a long curve\n  that grows for $x < 0.5$. Right: not."
    assert back_matter.opening(left) == "Left: a long curve that grows for $x < 0.5$."
    both = "A picture. What von Oswald et al. Found, as in Fig. $2$. So."
    assert back_matter.opening(both) == both.removesuffix(" So.")
    assert back_matter.opening("One sentence") == "One sentence"
