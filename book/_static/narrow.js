// A formula in a line that is wider than its paragraph becomes one that scrolls by itself, and
// what scrolls can be reached with the keyboard (the theme looks at what is unfolded at first).
(() => {
  const fit = () => {
    for (const formula of document.querySelectorAll(".bd-article mjx-container:not([display])")) {
      formula.classList.remove("wide");
      const box = formula.closest("p, li, dd, td");
      const wide = box?.clientWidth && formula.getBoundingClientRect().width > box.clientWidth;
      formula.classList.toggle("wide", Boolean(wide));
    }
    for (const box of document.querySelectorAll(".bd-article pre")) {
      if (box.checkVisibility()) box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
    }
  };
  addEventListener("load", () => window.MathJax?.startup?.promise.then(fit));
  addEventListener("resize", fit);
  document.addEventListener("toggle", fit, true);
  document.addEventListener("click", () => setTimeout(fit));
})();
