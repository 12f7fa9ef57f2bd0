// Where a dotted number comes from: a tap or click on it says so, Escape or a click elsewhere ends it. By keyboard, the fold at
// the end of the page lists the origins of all its numbers.
"use strict";

addEventListener("DOMContentLoaded", () => {
  let open = null;
  const close = () => {
    open?.remove();
    open = null;
  };
  document.addEventListener("click", ({ target }) => {
    const number = target.closest?.(".result");
    const again = number && open?.parentElement === number;
    if (target.closest?.(".result-origin")) return;
    close();
    if (!number || again) return;
    open = document.createElement("span");
    open.className = "result-origin";
    open.setAttribute("role", "status");
    open.textContent = number.dataset.origin;
    number.append(open);
    const { right, left } = open.getBoundingClientRect();
    const edge = document.documentElement.clientWidth - 8;
    if (right > edge) open.style.translate = `${Math.max(edge - right, 8 - left)}px`;
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
});
