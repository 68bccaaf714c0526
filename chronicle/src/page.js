"use strict";
(() => {
  const detail = document.querySelector(".detail");
  const marks = document.querySelector("svg.marks");
  if (!detail || !marks) return;
  const tell = (element) => {
    const title = element && element.querySelector(":scope > title");
    if (title) detail.textContent = title.textContent;
  };
  marks.addEventListener("pointerover", (event) => tell(event.target.closest("g.mark, g.phase, g.broken")));
  marks.addEventListener("focusin", (event) => tell(event.target.closest("g.mark")));
  // One stop of Tab a row; within it, the marks in the order of time.
  const start = (mark) => mark.getBBox().x;
  const ordered = new Map();
  marks.dataset.keys = "ready";
  const within = (band) => {
    if (!ordered.has(band)) {
      const all = [...band.querySelectorAll("g.mark")];
      ordered.set(band, all.map((mark) => [start(mark), mark]).sort((a, b) => a[0] - b[0]).map((pair) => pair[1]));
    }
    return ordered.get(band);
  };
  marks.addEventListener("keydown", (event) => {
    const band = event.target.closest("g.band");
    if (!band) return;
    const all = within(band);
    const at = all.indexOf(event.target.closest("g.mark"));
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    const mark = all[to];
    if (!mark) return;
    event.preventDefault();
    mark.setAttribute("tabindex", "-1");
    mark.focus();
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
})();
