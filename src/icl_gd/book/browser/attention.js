(() => {
  const [id, packed, says, first] = DATA;
  const root = document.getElementById(id), said = root.querySelector("p[aria-live]");
  const tokens = [...root.querySelectorAll("[data-t]")], n = tokens.length;
  const heads = [...root.querySelectorAll("[data-heads] input")];
  const models = [...root.querySelectorAll("[data-models] input")];
  const finds = [...root.querySelectorAll("output")];
  const weight = (h, i, j) => parseInt(
    packed[which()].substr(h * n * (n + 1) + i * (i + 1) + 2 * j, 2), 36) / 1000;
  const checked = choices => Math.max(0, choices.findIndex(choice => choice.checked));
  const chosen = () => checked(heads), which = () => checked(models);
  let at = first;
  const show = () => {
    const head = chosen();
    const found = heads.map((_, h) => {
      const row = tokens.slice(0, at + 1).map((_, j) => weight(h, at, j));
      return row.indexOf(Math.max(...row));
    });
    const share = h => Math.round(100 * weight(h, at, found[h])) + "%";
    const name = j => `${j} \u201c${tokens[j].textContent}\u201d`;
    tokens.forEach((token, j) => {
      token.style.setProperty("--a", j <= at ? weight(head, at, j) : 0);
      token.tabIndex = j === at ? 0 : -1;
    });
    finds.forEach((o, h) => o.textContent = `${share(h)} ${name(found[h])}`);
    said.textContent = `Token ${name(at)}: head ${heads[head].value} looks most at `
      + `token ${name(found[head])}, with ${share(head)} of its attention. `
      + `${models[which()].value}, the model says ${says[which()][at]}; the text says `
      + (at < n - 1 ? `\u201c${tokens[at + 1].textContent}\u201d.` : "no more.");
  };
  const choose = j => { at = Math.min(Math.max(j, 0), n - 1); show(); };
  for (const event of ["pointerover", "focusin", "click"])
    root.addEventListener(event, e => {
      const j = tokens.indexOf(e.target.closest("[data-t]"));
      if (j >= 0) choose(j);
    });
  root.addEventListener("change", show);
  root.addEventListener("click", e => {
    const go = e.target.closest("[data-go]");
    if (go) choose(+go.dataset.go);
  });
  root.addEventListener("keydown", e => {
    if (!tokens.includes(e.target)) return;
    const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: n - 1}[e.key];
    const turn = {ArrowUp: heads.length - 1, ArrowDown: 1}[e.key];
    if (to === undefined && !turn) return;
    e.preventDefault();
    if (turn) heads[(chosen() + turn) % heads.length].checked = true;
    choose(to ?? at);
    tokens[at].focus();
  });
  show();
})();
