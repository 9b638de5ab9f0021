"""Writes what is made of the executed notebooks: ledger, figure index, the README's picture.

    python scripts/back_matter.py           writes them
    python scripts/back_matter.py --check   exits 1 if they are not what would be written

The measured values are those in the metadata of the notebooks' outputs, put there by
``icl_gd.book.claims.check``; nothing is run here.
"""

import json
import re
import sys
from base64 import b64decode
from hashlib import sha256
from html import escape
from pathlib import Path

import yaml

from icl_gd.book import claims

ROOT = Path(__file__).resolve().parents[1]
BACK = ROOT / "book" / "back"

LEDGER = """# Ledger of claims

Every claim that the book makes about a paper or of its own, as it was checked when the chapter
was last run. *Gap* is the largest distance between measured and expected; a chapter whose gap
exceeds its tolerance, or that breaks a bound, stops with an error. The reason for a tolerance or a
bound stands in brackets. Two numbers joined by "to" are the smallest and the largest entry of an
array. *Excluded* is the nearest wrong hypothesis, and what would have been measured if it were
true: a claim that allows it stops the chapter too. This page is generated from the executed
chapters.

The first table counts the claims of each chapter by kind. The second names the claim whose gap
takes the largest share of its tolerance, and the one whose excluded hypothesis lies nearest to the
tolerance (its gap in units of it, which has to be above 1).
"""
FIGURES = """# Figure index

Every figure, with the functions of the package that draw it in brackets, and the published figure
or statement that it corresponds to, if there is one. A picture leads to its figure. This page is
generated from the executed chapters.
"""


def chapters():
    """The executed notebooks, in the order of the contents: (path in the book, title, cells)."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    for path in (ROOT / file for file in files if file.endswith(".ipynb")):
        if not path.exists():
            raise SystemExit(f"{path.relative_to(ROOT)} is missing: run make notebooks")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        title = re.search(r"^# (.+)$", "\n".join(texts), re.MULTILINE)[1]
        yield path.relative_to(ROOT / "book").with_suffix("").as_posix(), title, cells


def item(record) -> str:
    """One claim: statement, source, and what was measured against what was expected."""
    entry = claims.registry()[record["id"]]
    published = f" *Published:* {entry['published']}." if "published" in entry else ""
    bound = {"below": "at most", "above": "at least"}.get(entry.get("relation"))
    if bound:
        result = f"*Bound:* {bound} {record['expected']}. *Measured:* {record['measured']}"
    else:
        result = (
            f"*Expected:* {record['expected']}. *Measured:* {record['measured']}. "
            f"*Gap:* {record['gap']}, tolerance {entry['tolerance']}"
        )
    if "excludes" in entry:
        wrong = f"{record['wrong']}, gap {record['missed']}"
        result += f" ({entry['why']}).\\\n  *Excluded:* {entry['excludes']}: {wrong}"
    else:
        result += f" ({entry['why']})"
    return (
        f"- **`{record['id']}`** ({entry['kind']}). {entry['statement']}\\\n"
        f"  *Source:* {entry['source']}.{published}\\\n"
        f"  {result}.\n"
    )


def extreme(shares, choose) -> str:
    """The claim with the smallest or the largest share, and that share."""
    if not shares:
        return "—"
    name = choose(shares, key=shares.get)
    return f"`{name}` ({shares[name]:.2g})"


def counts(records) -> list[str]:
    """How many claims there are of each kind, and in all."""
    kinds = [claims.registry()[record["id"]]["kind"] for record in records]
    return [*(str(kinds.count(kind) or "") for kind in claims.KINDS), str(len(records))]


def edges(records) -> list[str]:
    """The claim that is nearest to its tolerance, and the exclusion that is."""
    used, missed = {}, {}
    for record in records:
        entry = claims.registry()[record["id"]]
        if entry["tolerance"] and "relation" not in entry:
            used[record["id"]] = float(record["gap"]) / entry["tolerance"]
            if "missed" in record:
                missed[record["id"]] = float(record["missed"]) / entry["tolerance"]
    return [extreme(used, max), extreme(missed, min)]


def table(heads, rows) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ledger() -> str:
    """The ledger: tables of the chapters, and the claims of each, folded."""
    found = []
    for name, title, cells in chapters():
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        records = [o["metadata"]["claim"] for o in outputs if "claim" in o.get("metadata", {})]
        if records:
            found.append((f"{{doc}}`{title} <../{name}>`", records))
    page = LEDGER
    page += table(["chapter", *claims.KINDS, "all"], [[c, *counts(r)] for c, r in found])
    page += table(
        ["chapter", "nearest to its tolerance", "nearest exclusion"],
        [[c, *edges(r)] for c, r in found],
    )
    for chapter, records in found:
        page += f"\n## {chapter}\n\n````{{dropdown}} {len(records)} claims\n"
        page += "".join(map(item, records)) + "````\n"
    return page


def pictures(cell):
    """The pictures that a cell has drawn, as the bytes of their files."""
    data = [output.get("data", {}) for output in cell["outputs"]]
    kind = "image/png"  # HTML is shown instead of it, where there is some
    return [b64decode(shown[kind]) for shown in data if kind in shown and "text/html" not in shown]


def thumbnail(cell, place) -> str:
    """The picture of a figure, small, in a link to it: the file that the site's page shows."""
    drawn = pictures(cell)
    if not drawn:  # it is made of HTML
        return f'<a class="thumbnail" href="{place}">To be explored</a>'
    file = f"../../_images/{sha256(drawn[0]).hexdigest()}.png"  # as myst-nb names it
    width, height = (int.from_bytes(drawn[0][at : at + 4]) for at in (16, 20))
    size = f'width="240" height="{240 * height // width}"'
    alt = escape(cell["metadata"]["mystnb"]["image"]["alt"])
    picture = f'<img src="{file}" alt="{alt}" {size} loading="lazy">'
    return f'<a class="thumbnail" href="{place}">{picture}</a>'


def opening(caption) -> str:
    """The first sentence of a caption, and what follows if that says nothing yet, in one line."""
    line = " ".join(caption.split())
    end = re.compile(r"(?<!\bal)(?<!\bFig)[.?!](?= [A-Z$*])").search(line, 40)
    return line[: end.end()] if end else line


def entry(cell, page) -> str:
    """A figure in the index: small, with the beginning of its caption and where it comes from."""
    figure = cell["metadata"]["mystnb"]["figure"]
    called = re.findall(r"plots\.([a-z_]+)\(", "".join(cell["source"]))
    drawn = sorted({*called} - {"use_style", "scale_bar"})
    functions = f" ({', '.join(f'`plots.{name}`' for name in drawn)})" if drawn else ""
    published = cell["metadata"]["icl_gd"]["published"]
    source = "" if published == "none" else f"\n\n*Published:* {published}."
    picture = thumbnail(cell, f"{page}#{figure['name']}")
    text = f"{{numref}}`{figure['name']}`. {opening(figure['caption'])}{functions}{source}"
    return f"\n:::{{grid-item}}\n{picture}\n\n{text}\n:::\n"


def figures() -> str:
    """The figure index, chapter by chapter."""
    page = FIGURES
    for name, title, cells in chapters():
        drawn = [cell for cell in cells if "figure" in cell["metadata"].get("mystnb", {})]
        if drawn:
            page += f"\n## {{doc}}`{title} <../{name}>`\n\n::::{{grid}} 1 2 2 2\n:gutter: 4\n"
            page += "".join(entry(cell, f"../{name}.html") for cell in drawn) + "::::\n"
    return page


def picture() -> bytes:
    """The figure of the index page, which the README shows too."""
    _, _, cells = next(chapters())
    drawn = [pictures(cell) for cell in cells if cell["cell_type"] == "code"]
    return next(filter(None, drawn))[0]


def main() -> int:
    pages = {
        BACK / "claims.md": ledger().encode(),
        BACK / "figures.md": figures().encode(),
        ROOT / "book" / "_static" / "readme.png": picture(),
    }
    stale = [p for p, made in pages.items() if not p.exists() or p.read_bytes() != made]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date: run make notebooks")
        else:
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(pages[path])
            temporary.replace(path)
    return bool(stale and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
