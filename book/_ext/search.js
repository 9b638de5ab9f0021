// How the book is searched: Sphinx writes this into language_data.js (html_search_scorer), which
// the search page loads after searchtools.js. What is read comes before what is looked up, a
// function is found by its own name, and excerpts are taken from the text of a page.

const PARTS = [/^book\/(construction|dynamics|induction|online)\//, /^book\/(index|closing)$/, /^book\//];
const written = (query) =>
  query.replace(/\bICL\b/gi, "in-context learning").replace(/\bGD\b(?!\+)/gi, "gradient descent");
const asked = () =>
  written(new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
const isCode = (word) => /[a-z]_[a-z]/.test(word);

var Scorer = {
  // A result is [document, title, anchor, description, score, file].
  score: ([name, , , description, score]) => {
    if (description) return isCode(asked()) ? 1000 + score : score; // of the API
    if (name.startsWith("book/back/")) return 100 + score;
    const part = PARTS.findIndex((pattern) => pattern.test(name));
    return part < 0 ? score : 400 - 100 * part + score;
  },
  // As in Sphinx.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

const search = Search.query;
Search.query = (query) => search(written(query));

// Every name contains that of the package.
const objects = Search.performObjectSearch;
Search.performObjectSearch = (object, all) =>
  objects(object, all).filter(([, name]) => name.toLowerCase().replace("icl_gd", "").includes(object));

const ASIDE =
  ".headerlink, script, style, svg, button, nav, .toctree-wrapper, pre, .cell_input, .icl-view, summary";
const spoken = (formula) =>
  formula
    .replace(/\\(begin|end)\{\w+\}|\\(math\w+|text|left|right|[bB]ig\w?)\b|\\[^a-zA-Z]/g, " ")
    .replace(/\\([a-zA-Z]+)/g, "$1")
    .replace(/ *[{}] */g, "");
Search.htmlToText = (html, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  const whole = page.querySelector("article") || page.body;
  const part = (anchor && page.getElementById(decodeURIComponent(anchor.slice(1)))) || whole;
  part.querySelector("h1, h2, h3")?.remove(); // the result's link says it
  part.querySelectorAll(ASIDE).forEach((node) => node.remove());
  part.querySelectorAll("div.math").forEach((formula) => formula.replaceWith(" … "));
  part.querySelectorAll("span.math").forEach((formula) => {
    formula.textContent = spoken(formula.textContent).trim();
  });
  return part.textContent.replace(/\s+/g, " ").trim();
};

Search.makeSearchSummary = (html, keywords, anchor) => {
  const text = Search.htmlToText(html, anchor);
  if (!text) return null;
  const literal = (word) => word.replace(/[^\w\s]/g, "\\$&");
  const found = [asked(), ...keywords].map((word) =>
    text.search(new RegExp(`(?<!\\w)${literal(word)}`, "i"))
  );
  const at = found.find((place) => place >= 0) ?? 0;
  const start = at > 120 ? text.indexOf(" ", at - 120) + 1 : 0;
  const end = start + 240 < text.length ? text.lastIndexOf(" ", start + 240) : text.length;
  const summary = document.createElement("p");
  summary.className = "context";
  summary.textContent =
    (start ? "… " : "") + text.slice(start, end) + (end < text.length ? " …" : "");
  return summary;
};
