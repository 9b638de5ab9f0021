(() => {
  const [id, marks, template, numbers] = DATA;
  const root = document.getElementById(id), said = root.querySelector("[aria-live]");
  const dials = [...root.querySelectorAll("[data-dial]")];
  const size = dial => dial.matches("fieldset") ? dial.elements.length : +dial.max + 1;
  const at = dial => dial.matches("fieldset")
    ? [...dial.elements].findIndex(choice => choice.checked) : +dial.value;
  const digits = (text, k) => parseInt(text.slice(2 * k, 2 * k + 2), 36);
  const row = ([rows, which], state, count) => {
    const from = digits(which, state % (which.length / 2)) * count;
    return Array.from({length: count}, (_, k) => digits(rows, from + k));
  };
  const shapes = {
    line: (x, y, k) => (k ? "L" : "M") + x + " " + y,
    points: (x, y) => "M" + x + " " + y + "h0",
    segments: (x, y, k) => (k % 2 ? "L" : "M") + x + " " + y,
  };
  const px = v => (v / 3 - 96).toFixed(1);
  const show = () => {
    const state = dials.reduce((s, dial) => s * size(dial) + at(dial), 0);
    root.querySelectorAll("[data-m]").forEach((element, m) => {
      const [count, kind, x, y] = marks[m];
      const ys = row(y, state, count);
      if (kind === "cells")
        ys.forEach((v, k) => element.children[k].style.setProperty("--v", v / 500 - 1));
      else {
        const xs = row(x, state, count);
        const d = ys.map((v, k) => shapes[kind](px(xs[k]), px(v), k));
        element.setAttribute("d", d.join(""));
      }
    });
    const words = {};
    for (const [name, [different, which]] of Object.entries(numbers))
      words[name] = different[which[state]];
    dials.forEach(dial => {
      if (!dial.matches("input")) return;
      const word = dial.dataset.values.split(" ")[at(dial)];
      dial.setAttribute("aria-valuetext", dial.nextElementSibling.textContent = word);
    });
    said.textContent = template.replace(/{(\w+)}/g, (_, name) => words[name]);
  };
  root.addEventListener("input", show);
  root.addEventListener("pointerdown", press);
  root.addEventListener("pointermove", event => event.buttons && press(event));
  show();
  function press(event) {
    const pad = event.target.closest("svg[data-pad]");
    if (!pad) return;
    const box = pad.getBoundingClientRect(), [x0, x1, y0, y1] = JSON.parse(pad.dataset.pad);
    const unit = pad.viewBox.baseVal.width / box.width;
    const shares = [((event.clientX - box.left) * unit - x0) / (x1 - x0),
      ((event.clientY - box.top) * unit - y0) / (y1 - y0)];
    shares.forEach((share, k) => { dials[k].value = share * dials[k].max; });
    show();
  }
})();
