(() => {
  const [id, betas] = DATA;
  const root = document.getElementById(id), said = root.querySelector("[aria-live]");
  const [word, slider] = root.querySelectorAll("input"), out = root.querySelector("output");
  const [strip, counts] = root.querySelectorAll("tbody");
  const row = (head, cells) => {
    const line = document.createElement("tr"), title = document.createElement("th");
    title.scope = "row";
    title.textContent = head;
    line.append(title, ...cells.map(([text, share = 0, asks = false]) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (share) cell.style.setProperty("--a", share.toFixed(2));
      if (asks) cell.className = "asks";
      return cell;
    }));
    return line;
  };
  const percent = share => Math.round(100 * share) + "%";
  const show = () => {
    const s = [...word.value.toLowerCase()].filter(c => c.trim()), last = s.at(-1);
    const beta = betas[slider.value];
    slider.setAttribute("aria-valuetext", out.textContent = beta);
    if (s.length < 2) {
      said.textContent = "Type two letters or more.";
      return;
    }
    const scores = s.map((_, j) => j ? Math.exp(beta * ((s[j - 1] === last) - 1)) : 0);
    const whole = scores.reduce((a, b) => a + b), weights = scores.map(e => e / whole);
    strip.replaceChildren(
      row("token", s.map((c, j) => [c, 0, j === s.length - 1])),
      row("note", s.map((_, j) => [j ? s[j - 1] : "\u2013"])),
      row("weight", s.map((_, j) => [j ? Math.round(100 * weights[j]) : "", weights[j]])));
    const kinds = [...new Set(s)].sort(), at = [...s.keys()].slice(1);
    const after = (a, b) => at.filter(j => s[j - 1] === a && s[j] === b).length;
    const share = c => at.reduce((sum, j) => sum + (s[j] === c ? weights[j] : 0), 0);
    counts.replaceChildren(
      row("after", kinds.map(c => [c])),
      ...kinds.map(a => row(a, kinds.map(b => [after(a, b) || "\u00b7", 0, a === last]))),
      row("answer", kinds.map(c => [percent(share(c)), share(c)])));
    const best = kinds.reduce((a, b) => share(b) > share(a) ? b : a);
    const n = at.filter(j => s[j - 1] === last).length;
    const said_of = n
      ? `was followed ${n} ${n > 1 ? "times" : "time"}, by \u201c${best}\u201d `
        + `${after(last, best)} of them`
      : "has not been followed by anything yet";
    said.textContent = `\u201c${last}\u201d ${said_of}. At \u03b2 = ${beta} the largest `
      + `share, ${percent(share(best))}, goes to \u201c${best}\u201d.`;
  };
  root.addEventListener("input", show);
  show();
})();
