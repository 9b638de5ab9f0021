"""Print the built site as one PDF, with Chromium.

    python scripts/pdf.py              the whole book, into _build/pdf/book.pdf
    python scripts/pdf.py book/index   only these pages, as _toc.yml names them without a suffix

The pages of `make book` become one document, so that references between them lead to the place in
the PDF. Code that a page folds is left out, all else that is folded is open, and figures that move
stand still: each chapter names its live page.
"""

import argparse
import logging
import posixpath
import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
TARGET = ROOT / "_build" / "pdf"
CHROMIUM = ["chromium", "chromium-browser", "google-chrome"]
LEFT_OUT = ".headerlink, script, button, details.hide, .tag_remove-output, .icl-view input"
# Of the site's head; the scripts that fold, copy and search are for a screen.
HEAD = "link[rel=stylesheet], script[src*=mathjax]"

PAPER = """
@page { size: A4; margin: 20mm 20mm 22mm; }
html, body { background: #fff; font-size: 13px; }
body { display: block; overflow: visible; }
section.page { break-before: page; }
section.cover { text-align: center; padding-top: 40mm; }
section.cover ul { text-align: left; columns: 2; margin: 15mm 0; list-style: none; }
section.cover ul ul { columns: 1; margin: 0 0 1.2em; padding: 0; }
section.cover li { break-inside: avoid; }
.bd-article h1 { margin-top: 0; }
.bd-article .live { font-size: 0.85em; }
h1, h2, h3, .rubric { break-after: avoid; }
figure, img, tr, div.math, div.highlight, .cell_input, .icl-view { break-inside: avoid; }
.bd-article figure img, .bd-article .cell_output img {
  max-width: 130mm; max-height: 85mm; width: auto; }
.bd-article .highlight pre, .bd-article .cell_output pre { font-size: 0.78rem; }
.bd-article .sd-card, .bd-article details { box-shadow: none !important; }
.bd-article .thumbnail img { max-width: 60mm; }
.bd-article a { text-decoration: none; }
details > summary::before, details > summary::after, .sd-summary-state-marker {
  display: none !important; }
"""
FOOT = """<div style="width: 100%; font: 8px sans-serif; text-align: center">
<span class="pageNumber"></span></div>"""
READY = "() => MathJax.startup.promise.then(() => document.fonts.ready)"


def contents():
    """The parts of the book: a title (none for the first page) and the names of its pages."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    name = lambda file: re.sub(r"\.(md|ipynb)$", "", file)
    yield "", [name(toc["root"])]
    for part in toc["parts"]:
        yield part["caption"], [name(chapter["file"]) for chapter in part["chapters"]]


def settings():
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def anchor(name, place=""):
    """The id in the PDF's document of a page, or of a place on it."""
    return f"{name}--{place}"


def article(name, chosen, live):
    """A page as a section of the document: what is in it named after it, its links resolved."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup((SITE / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    part = page.article
    for node in part.select(LEFT_OUT):
        node.decompose()
    for fold in part.select("details"):
        fold["open"] = ""
    for node in part.select("[id]"):
        node["id"] = anchor(name, node["id"])
    for image in part.select("img[src]"):
        image["loading"] = "eager"
        if not image["src"].startswith("data:"):
            image["src"] = f"{SITE.as_uri()}/{resolve(name, image['src'])}"
    for link in part.select("a[href]"):
        link["href"] = reference(name, link["href"], chosen, live)
    for view in part.select(".icl-view"):
        note = page.new_tag("p", attrs={"class": "live"})
        note.append(
            page.new_tag("a", href=f"{live}{name}.html", string="It moves on the live page.")
        )
        view.append(note)
    where = page.new_tag("p", attrs={"class": "live"})
    where.append(page.new_tag("a", href=f"{live}{name}.html", string=f"{live}{name}.html"))
    part.h1.insert_after(where)
    part.name, part["class"], part["id"] = "section", ["page"], anchor(name)
    return part


def resolve(name, address):
    """An address on a page, from the site's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), address))


def reference(name, address, chosen, live):
    """Where a link leads: within the document if the place is in it, and else to the live page."""
    if re.match(r"\w+:", address):
        return address
    file, _, place = address.partition("#")
    page = resolve(name, file).removesuffix(".html") if file else name
    if page in chosen:
        return f"#{anchor(page, place)}"
    return f"{live}{resolve(name, file)}" + (f"#{place}" if place else "")


def document(chosen):
    """The document that is printed, cover and chosen pages, and the titles of these by part."""
    from bs4 import BeautifulSoup

    title, live = settings()["title"], settings()["html"]["baseurl"]
    pages, titles = [], {}
    for part, names in contents():
        for name in names:
            if name in chosen:
                pages.append(article(name, chosen, live))
                titles.setdefault(part, {})[name] = pages[-1].h1.get_text()
    entries = ""
    for part, listed in titles.items():
        items = "".join(f'<li><a href="#{anchor(n)}">{t}</a></li>' for n, t in listed.items())
        entries += f"<li><b>{part}</b><ul>{items}</ul></li>"
    home = (SITE / chosen[0]).with_suffix(".html").read_text(encoding="utf-8")
    head = BeautifulSoup(home, "html.parser").head
    for node in head.select(HEAD):
        place = "href" if node.name == "link" else "src"
        node[place] = f"{SITE.as_uri()}/{resolve(chosen[0], node[place])}"
    shared = [head.find("script", string=re.compile("window.MathJax")), *head.select(HEAD)]
    text = f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{title}</title>
{"".join(str(node) for node in shared if node)}<style>{PAPER}</style></head>
<body><main class="bd-content"><div class="bd-article"><section class="cover"><h1>{title}</h1>
<p>{settings()["author"]}</p>
<p>Where it moves and runs: <a href="{live}">{live}</a></p><ul>{entries}</ul></section>
{"".join(map(str, pages))}</div></main></body></html>"""
    return text, titles


def write(browser, chosen, target):
    """Print the pages into a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = target.with_suffix(".html")
    text, titles = document(chosen)
    source.write_text(text, encoding="utf-8")
    tab = browser.new_page()
    tab.set_default_timeout(600_000)
    tab.goto(source.as_uri())
    tab.evaluate(READY)
    tab.pdf(
        path=target,
        prefer_css_page_size=True,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOT,
    )
    tab.close()
    source.unlink()
    outline(target, titles)


def outline(target, titles):
    """Give a printed file its outline, parts and their pages, and its title."""
    from pypdf import PdfReader, PdfWriter

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium miscounts its objects
    printed = PdfReader(target)
    places = printed.named_destinations
    book = PdfWriter(clone_from=printed)
    for part, listed in titles.items():
        numbers = [
            printed.get_destination_page_number(places[f"/{anchor(name)}"]) for name in listed
        ]
        parent = book.add_outline_item(title=part, page_number=numbers[0]) if part else None
        for title, number in zip(listed.values(), numbers, strict=True):
            book.add_outline_item(title=title, page_number=number, parent=parent)
    book.add_metadata({"/Title": settings()["title"], "/Author": settings()["author"]})
    book.write(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="as in book/index")
    given = parser.parse_args()
    known = [name for _, names in contents() for name in names]
    if unknown := set(given.pages) - set(known):
        sys.exit(f"not a page: {', '.join(sorted(unknown))}; pages: {', '.join(known)}")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        sys.exit(f"A PDF needs Chromium: none of {', '.join(CHROMIUM)} was found.")
    from playwright.sync_api import sync_playwright

    target = TARGET / "book.pdf"
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        write(browser, [name for name in known if name in given.pages or not given.pages], target)
        browser.close()
    print(f"The book: {target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
