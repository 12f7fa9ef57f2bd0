// Search in a book that was opened from disk, where no page may be fetched: the words of all pages come from a script.
"use strict";

if (location.protocol === "file:") {
  const root = new URL(document.documentElement.dataset.content_root, location.href).href;
  const loaded = new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${root}_static/words.js`;
    script.onload = script.onerror = () => done(window.words ?? {});
    document.head.append(script);
  });
  window.fetch = async (url) => {
    const page = decodeURI(new URL(url, location.href).href.slice(root.length));
    const main = document.createElement("div");
    main.setAttribute("role", "main");
    main.textContent = (await loaded)[page] ?? "";
    return { ok: true, text: async () => main.outerHTML };
  };
}
