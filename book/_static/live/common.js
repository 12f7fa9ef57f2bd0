// What the live parts of the pages share, as the global `live`. A part is a file NAME.js in this folder, loaded on every page
// with a <div class="live-NAME">; its content is a still picture for paper and for readers without JavaScript. Classic scripts
// without fetch, so that a page opened from disk works like one on the web.
"use strict";

window.live ??= (() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  /** Call build(root) for every <div class="live-NAME"> of the page. */
  function part(name, build) {
    const begin = () => {
      for (const root of document.querySelectorAll(`div.live-${name}:not([data-live])`)) {
        root.dataset.live = "ready";
        try {
          build(root);
        } catch (error) {
          delete root.dataset.live; // the still picture comes back
          console.error(error);
        }
      }
    };
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
    else begin();
  }

  /** element("button", { type: "button", class: "a", onclick: f }, "text", child): an element of the page. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (typeof value === "boolean") made.toggleAttribute(name, value);
      else if (value != null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  /** The colors of the roles in the theme of the moment: { teacher, student, target, data, ink, paper }. */
  function colors() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const roles = { teacher: "--teacher", student: "--student", target: "--target", data: "--data" };
    const found = Object.fromEntries(Object.entries(roles).map(([role, name]) => [role, of(name)]));
    return { ...found, ink: of("--pst-color-text-base"), paper: of("--pst-color-background") };
  }

  const redraws = new Set();
  /** Call draw() whenever the reader changes the theme. */
  function onTheme(draw) {
    redraws.add(draw);
  }
  new MutationObserver(() => redraws.forEach((draw) => draw())).observe(document.documentElement, {
    attributes: true,
    attributeFilter: ["data-theme"],
  });

  /** Call shown(true) when an element comes into view and shown(false) when it leaves, or the tab is hidden. */
  function onView(root, shown) {
    let inView = false;
    let said = null;
    const tell = () => {
      const now = inView && !document.hidden;
      if (now !== said) shown((said = now));
    };
    new IntersectionObserver((entries) => {
      inView = entries.at(-1).isIntersecting;
      tell();
    }).observe(root);
    document.addEventListener("visibilitychange", tell);
  }

  /** Call f in the next frame; in a hidden tab, which has no frames, soon. */
  const soon = (f) => (document.hidden ? setTimeout(f) : requestAnimationFrame(f));

  // --- a plane to draw on --------------------------------------------------------------------------

  /**
   * A canvas as a plane with the same scale both ways: x from -extent to extent over its width.
   *
   *   const view = live.plane(canvas, { extent: 1.5, draw: (view) => { view.dots(points, 2, color); } });
   *
   * draw is called again when size or theme change; view.refresh() asks for it in the next frame.
   */
  function plane(canvas, { extent, draw }) {
    const pen = canvas.getContext("2d");
    const view = { canvas, pen, extent, width: 0, height: 0 };
    let asked = false;
    const paint = () => {
      asked = false;
      const ratio = Math.min(window.devicePixelRatio || 1, 3);
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (!width || !height) return;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      Object.assign(view, { width, height });
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      draw(view);
    };
    view.paint = paint;
    view.refresh = () => {
      if (asked) return;
      asked = true;
      soon(paint);
    };
    /** Pixels of a point of the plane, and back. */
    view.at = (x, y) => [((x / view.extent + 1) * view.width) / 2, view.height / 2 - (y / view.extent) * (view.width / 2)];
    view.from = (px, py) => [((2 * px) / view.width - 1) * view.extent, (view.height / 2 - py) * ((2 * view.extent) / view.width)];
    /** Where a pointer is in the plane. */
    view.pointer = (event) => {
      const box = canvas.getBoundingClientRect();
      return view.from(event.clientX - box.left, event.clientY - box.top);
    };
    /** Dots at points [x0, y0, x1, y1, ...], r pixels in radius. */
    view.dots = (points, r, color, alpha = 1) => {
      pen.globalAlpha = alpha;
      pen.fillStyle = color;
      pen.beginPath();
      for (let i = 0; i < points.length; i += 2) {
        const [x, y] = view.at(points[i], points[i + 1]);
        pen.moveTo(x + r, y);
        pen.arc(x, y, r, 0, 7);
      }
      pen.fill();
      pen.globalAlpha = 1;
    };
    /** A line through points [x0, y0, x1, y1, ...]. */
    view.line = (points, width, color, alpha = 1) => {
      pen.globalAlpha = alpha;
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.lineJoin = "round";
      pen.beginPath();
      for (let i = 0; i < points.length; i += 2) pen.lineTo(...view.at(points[i], points[i + 1]));
      pen.stroke();
      pen.globalAlpha = 1;
    };
    /** A ring, such as the handle of something that can be dragged. */
    view.ring = (x, y, r, color, width = 2) => {
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.beginPath();
      pen.arc(...view.at(x, y), r, 0, 7);
      pen.stroke();
    };
    /** Words beside points: { at: [x, y], text, color, up } stands so many pixels above its point, and makes way for those before it. */
    view.words = (labels, size = 14) => {
      pen.font = `600 ${size}px ${getComputedStyle(canvas).fontFamily}`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.lineJoin = "round";
      pen.lineWidth = 4;
      pen.strokeStyle = colors().paper;
      const taken = [];
      for (const { at, text, color, up = 16 } of labels) {
        const [half, [x, y]] = [pen.measureText(text).width / 2, view.at(...at)];
        const inside = (v, gap, most) => Math.min(most - gap, Math.max(gap, v));
        const px = inside(x, half + 3, view.width);
        const free = (v) => taken.every(([a, b, h]) => Math.abs(a - px) > half + h || Math.abs(b - v) >= size + 2);
        const places = [up, -up, 1.9 * up, -1.9 * up, 2.8 * up, -2.8 * up].map((v) => inside(y - v, size, view.height));
        const py = places.find(free) ?? places[0];
        taken.push([px, py, half]);
        pen.strokeText(text, px, py);
        pen.fillStyle = color;
        pen.fillText(text, px, py);
      }
    };
    new ResizeObserver(view.refresh).observe(canvas);
    onTheme(view.refresh);
    return view;
  }

  /**
   * A handle on a plane: a button over the canvas that is dragged, by touch as well, and moved by the arrow keys. The canvas stands
   * alone in a <div class="live-stage" role="application">, so that screen readers leave the arrow keys to it.
   *
   *   const one = live.handle(view, { at: () => [x, y], move: (x, y) => { ... view.refresh(); }, done, remove, chosen });
   *   one.place("Noise point at 0.6, 0.9");      // in draw: puts it where at() says, and says what it is
   */
  function handle(view, { at, move, done = () => {}, remove, chosen = () => {}, name = "" }) {
    const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const inside = (px, py) => move(...view.from(Math.min(view.width, Math.max(0, px)), Math.min(view.height, Math.max(0, py))));
    let grip = null; // where in the handle the pointer took hold of it
    const button = element("button", {
      type: "button",
      class: `live-handle ${name}`,
      onpointerdown: (event) => {
        if (event.button) return;
        button.setPointerCapture(event.pointerId);
        button.focus({ preventScroll: true });
        const [[x, y], box] = [view.at(...at()), view.canvas.getBoundingClientRect()];
        grip = [event.clientX - box.left - x, event.clientY - box.top - y];
        chosen();
      },
      onpointermove: (event) => {
        if (!grip) return;
        const box = view.canvas.getBoundingClientRect();
        inside(event.clientX - box.left - grip[0], event.clientY - box.top - grip[1]);
      },
      onlostpointercapture: () => {
        if (grip) done();
        grip = null;
      },
      onfocus: chosen,
      onkeydown: (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        if (keys[event.key]) {
          const [[x, y], [dx, dy], step] = [at(), keys[event.key], view.extent * (event.shiftKey ? 0.1 : 0.02)];
          inside(...view.at(x + dx * step, y + dy * step));
        } else if (remove && (event.key === "Delete" || event.key === "Backspace")) remove();
        else return;
        event.preventDefault();
        done();
      },
    });
    view.canvas.after(button);
    const place = (label) => {
      const [x, y] = view.at(...at());
      button.style.transform = `translate(${x}px, ${y}px)`;
      if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    };
    return { button, place };
  }

  // --- numbers -------------------------------------------------------------------------------------

  /** A source of random numbers by its seed (mulberry32): random() in (0, 1), normal(), integer(n) in 0 ... n - 1. */
  function source(seed) {
    let state = seed >>> 0;
    const random = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    const normal = () => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
    return { random, normal, integer: (n) => Math.floor(random() * n) };
  }

  /** EDM's noise grid of n levels, as karras_sigmas of the package. */
  function karrasSigmas(n, low = 0.002, high = 80, rho = 7) {
    const [a, b] = [high ** (1 / rho), low ** (1 / rho)];
    return Array.from({ length: n }, (_, i) => (a + (i / (n - 1)) * (b - a)) ** rho);
  }

  // --- a found thing can be sent ---------------------------------------------------------------------

  /**
   * Settings that stand in the address, behind a prefix: ?learn.seed=3&learn.N=18. What is as in `defaults` is left out.
   * Of a value in the address only what `check[name]` lets through counts: a list of choices, or [least, most] of a whole number,
   * [least, most, false] of any, or a function of the text that says whether it is one.
   *
   *   const settings = live.settings("learn", { seed: 0, solver: "heun" }, { seed: [0, 9999], solver: ["euler", "heun"] });
   *   settings.seed; settings.set({ seed: 4 });
   */
  function settings(prefix, defaults, check) {
    const values = { ...defaults };
    const asked = new URLSearchParams(location.search);
    for (const [name, usual] of Object.entries(defaults)) {
      const text = asked.get(`${prefix}.${name}`);
      if (text === null) continue;
      if (typeof usual === "number") {
        const value = text.trim() === "" ? NaN : Number(text);
        const [least, most, whole = true] = check[name];
        if (Number.isFinite(value)) values[name] = Math.min(most, Math.max(least, whole ? Math.round(value) : value));
      } else if (typeof check[name] === "function" ? check[name](text) : check[name].includes(text)) values[name] = text;
    }
    const set = (changes) => {
      Object.assign(values, changes);
      const url = new URL(location.href);
      for (const [name, usual] of Object.entries(defaults)) {
        if (values[name] === usual) url.searchParams.delete(`${prefix}.${name}`);
        else url.searchParams.set(`${prefix}.${name}`, values[name]);
      }
      try {
        history.replaceState(history.state, "", url);
      } catch {
        // A page from disk, in a browser that keeps its address: what was found stays, but cannot be sent.
      }
    };
    const found = { set };
    for (const name of Object.keys(defaults)) Object.defineProperty(found, name, { get: () => values[name], enumerable: true });
    return found;
  }

  return { part, element, colors, onTheme, onView, soon, plane, handle, source, karrasSigmas, settings, still };
})();
