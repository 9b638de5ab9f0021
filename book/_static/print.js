// Paper is white, and nothing on it can be unfolded.
(() => {
  const root = document.documentElement;
  let theme, folded;
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    folded.forEach((fold) => { fold.open = false; });
  });
})();
