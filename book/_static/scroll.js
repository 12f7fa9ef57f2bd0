// What scrolls inside itself, a long formula or a wide table, can be reached and scrolled by keyboard. And pictures that a reader has
// not come to yet are there when the page is printed: they are fetched in idle time once somebody uses the page.
"use strict";

const fetchPictures = () => {
  for (const one of document.querySelectorAll('img[loading="lazy"]')) one.loading = "eager";
};
addEventListener("beforeprint", fetchPictures);
addEventListener("load", () => {
  if (navigator.connection?.saveData) return;
  const begin = () => {
    for (const name of ["scroll", "pointerdown", "keydown"]) removeEventListener(name, begin);
    (window.requestIdleCallback ?? setTimeout)(fetchPictures);
  };
  for (const name of ["scroll", "pointerdown", "keydown"]) addEventListener(name, begin, { passive: true });
});

addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const { overflowX, overflowY } = getComputedStyle(target);
      const hidden = 8; // pixels; less is rounding
      const scrolls =
        (target.scrollWidth > target.clientWidth + hidden && /auto|scroll/.test(overflowX)) ||
        (target.scrollHeight > target.clientHeight + hidden && /auto|scroll/.test(overflowY));
      if (scrolls) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  const wide = "div.math, mjx-container[display], table, .pst-scrollable-table-container, pre, .cell_output .output, .wide-picture";
  for (const one of document.querySelectorAll(`article :is(${wide})`)) watch.observe(one);
});
