"use strict";
// Quiz items by verdict, and by their address; everything is opened for printing.
(() => {
  const box = icl.byId("quiz-filter");
  if (box) {
    const items = [...document.querySelectorAll("#quiz .item")];
    const shown = new Set([...box.querySelectorAll("button")].map((button) => button.dataset.show));
    box.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const name = button.dataset.show;
      if (shown.has(name)) shown.delete(name); else shown.add(name);
      button.setAttribute("aria-pressed", String(shown.has(name)));
      for (const item of items) item.hidden = !shown.has(item.dataset.verdict);
    });
  }
  // What an address names is shown: it may be folded, or filtered away.
  const reveal = () => {
    const named = location.hash && icl.byId(location.hash.slice(1));
    if (!named || named.tagName !== "DETAILS") return;
    named.hidden = false;
    named.open = true;
    named.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  for (const link of document.querySelectorAll(".missed a")) link.addEventListener("click", () => setTimeout(reveal));
  reveal();
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((one) => { one.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
})();
