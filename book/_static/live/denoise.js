// Chapter 1: data points to put down, and what may be behind a noisy point, at any noise level. Needs common.js and exact.js.
"use strict";

live.part("denoise", (root) => {
  const { element } = live;
  const EXTENT = 1.5;
  const MOST = 40;
  const PRESETS = {
    two: [-0.8, 0, 0.8, 0],
    five: [-1, -0.6, -0.7, 0.9, 0.1, -0.9, 0.5, 0.4, 1.1, 0.9],
    moons: exact.arcs(9).map((v) => Math.round(100 * v) / 100),
  };

  const WORDS = { two: "Two points", five: "Five points", moons: "Moons" };

  // Points stand in the address as a preset's name or as numbers: -1_-0.6_0.5_0.4.
  const numbers = (text) => Object.hasOwn(PRESETS, text) ? PRESETS[text] : text.split("_").map(Number);
  const fits = (text) => {
    const found = numbers(text);
    const plain = Object.hasOwn(PRESETS, text) || /^-?[\d.]+(_-?[\d.]+)*$/.test(text);
    return plain && found.length % 2 === 0 && found.length <= 2 * MOST && found.every((v) => Math.abs(v) <= EXTENT);
  };
  const near = [-EXTENT, EXTENT, false];
  const settings = live.settings(
    "denoise",
    { points: "five", sigma: 0.6, x: 0.1, y: 0.35 },
    { points: fits, sigma: [0.02, 5, false], x: near, y: near },
  );
  let points = [...numbers(settings.points)];
  let x = [settings.x, settings.y];
  let sigma = settings.sigma;
  let chosen = -1; // the data point touched last

  const round = (v) => Math.round(1000 * v) / 1000;
  const save = () => {
    const preset = Object.keys(PRESETS).find((name) => String(PRESETS[name]) === String(points));
    settings.set({ points: preset ?? points.map(round).join("_"), sigma, x: round(x[0]), y: round(x[1]) });
  };

  // --- what the reader sees and handles ------------------------------------------------------------------

  const canvas = element("canvas", { role: "img", "aria-label": "Arrows from a grid of places to the best guess" });
  const stage = element("div", { class: "live-stage", role: "application", "aria-label": "Plane of data points" }, canvas);
  const say = element("p", { class: "live-say", role: "status", "aria-live": "polite" });
  // The slider moves along ln sigma.
  const [least, most] = [Math.log(0.02), Math.log(5)];
  const slider = element("input", {
    type: "range", min: 0, max: 100, step: 1,
    oninput: () => {
      sigma = Number(Math.exp(least + ((most - least) * slider.value) / 100).toPrecision(2));
      view.refresh();
    },
    onchange: save,
  });
  const level = element("output", {});
  const presets = Object.keys(PRESETS).map((name) =>
    element("button", { type: "button", onclick: () => (take(PRESETS[name]), save()), "data-points": name, "aria-label": WORDS[name] },
      `${name[0].toUpperCase()}${name.slice(1)}`),
  );
  const adding = element("button", { type: "button", onclick: () => add(...free(), true) }, "Add a point");
  const removing = element("button", { type: "button", onclick: () => remove(chosen < 0 ? points.length / 2 - 1 : chosen) }, "Remove a point");
  root.prepend(
    element("div", { class: "live-part live-plane", role: "group", "aria-label": "The best guess for a noisy point" },
      element("p", {}, "Drag the noisy point x. Which data points could be behind it? You can drag those, too."),
      element("div", { class: "live-beside" },
        element("div", {}, stage, say),
        element("div", {},
          element("label", {}, "Noise σ ", slider, level),
          element("div", { class: "live-row" }, "Data", ...presets),
          element("div", { class: "live-row" }, adding, removing),
          element("p", { class: "live-hint" }, "Tap an empty spot to add a data point. Double-tap a point to remove it."),
        ),
      ),
    ),
  );

  // --- drawing -------------------------------------------------------------------------------------------

  const percent = (r) => (r > 0.995 && r < 1 ? "99+ %" : `${Math.round(100 * r)} %`);
  const place = ([a, b]) => `(${a.toFixed(2)}, ${b.toFixed(2)})`.replaceAll("-", "−");

  function draw(view) {
    const { pen } = view;
    const color = live.colors();
    const data = exact.mixture(points);
    const r = exact.posterior(data, x, sigma);
    const guess = exact.denoise(data, x, sigma);
    const around = view.width / (2 * EXTENT);

    const side = view.width < 380 ? 11 : 13;
    for (let i = 0; i < side; i++) {
      for (let j = 0; j < side; j++) {
        const from = [i, j].map((n) => (2.8 * n) / (side - 1) - 1.4);
        arrow(view, from, exact.denoise(data, from, sigma), color.teacher);
      }
    }
    // How far noise reaches: one sigma around x.
    pen.setLineDash([3, 4]);
    view.ring(...x, sigma * around, color.ink, 1);
    pen.setLineDash([]);
    const labels = [];
    for (let k = 0; k < r.length; k++) {
      const at = points.slice(2 * k, 2 * k + 2);
      view.dots(at, 5 + 12 * Math.sqrt(r[k]), color.data, 0.25 + 0.75 * r[k]);
      view.ring(...at, 5 + 12 * Math.sqrt(r[k]), k === chosen ? color.ink : color.data, k === chosen ? 2.5 : 1.5);
      if (r[k] >= 0.05) labels.push({ at, text: percent(r[k]), up: 10 + 12 * Math.sqrt(r[k]), color: color.ink });
    }
    view.line([...x, ...guess], 2.5, color.teacher);
    view.dots(guess, 6, color.teacher);
    view.dots(x, 9, color.paper);
    view.ring(...x, 9, color.ink, 2.5);
    const below = guess[1] > x[1] ? -1 : 1;
    labels.push({ at: guess, text: "best guess D(x, σ)", up: below * -24, color: color.teacher });
    labels.push({ at: x, text: "x", up: below * 22, color: color.ink });
    view.words(labels);

    level.textContent = `${sigma}`;
    slider.value = Math.round((100 * (Math.log(sigma) - least)) / (most - least));
    slider.setAttribute("aria-valuetext", `σ = ${sigma}`);
    for (const button of presets) {
      button.setAttribute("aria-pressed", String(PRESETS[button.dataset.points]) === String(points));
    }
    adding.disabled = points.length >= 2 * MOST;
    removing.disabled = points.length <= 2;
    handles.forEach((one, k) =>
      one.place(`Data point ${k + 1} of ${r.length}, at ${place(points.slice(2 * k, 2 * k + 2))}: ${percent(r[k])} of the guess`));
    noisy.place(`Noisy point x, at ${place(x)}`);
    say.textContent = sentence(r, guess);
    root.dataset.result = JSON.stringify({ x, sigma, r: [...r], guess });
  }

  function arrow(view, from, to, color) {
    const { pen } = view;
    const [[ax, ay], [bx, by]] = [view.at(...from), view.at(...to)];
    const [long, turn] = [Math.hypot(bx - ax, by - ay), Math.atan2(by - ay, bx - ax)];
    if (long < 2) return;
    view.line([...from, ...to], 0.9, color, 0.45);
    const tip = Math.min(6, long / 2);
    pen.globalAlpha = 0.6;
    pen.fillStyle = color;
    pen.beginPath();
    pen.moveTo(bx, by);
    for (const side of [-0.45, 0.45]) pen.lineTo(bx - tip * Math.cos(turn + side), by - tip * Math.sin(turn + side));
    pen.fill();
    pen.globalAlpha = 1;
  }

  function sentence(r, guess) {
    const best = Math.max(...r);
    const many = r.filter((v) => v >= 0.05).length;
    const what = best > 0.995 ? "almost certainly one point." : best >= 0.5 ? `${percent(best)} of it is one point.`
      : `a mean of ${many > 1 ? `${many} points` : "many points"}, none with more than ${percent(best)}.`;
    const gap = Math.min(...r.map((_, k) => Math.hypot(points[2 * k] - guess[0], points[2 * k + 1] - guess[1])));
    const blur = gap > 0.1 ? ` The nearest data point is ${gap.toFixed(2)} away from it.` : "";
    return `The best guess is ${place(guess)}${best >= 0.5 && best <= 0.995 ? "; " : ": "}${what}${blur}`;
  }

  // --- moving, adding, removing ----------------------------------------------------------------------------

  let handles = [];
  const view = live.plane(canvas, { extent: EXTENT, draw });
  const noisy = live.handle(view, {
    at: () => x,
    move: (...to) => ((x = to), view.refresh()),
    done: save,
  });

  function take(list) {
    points = [...list];
    chosen = -1;
    for (const { button } of handles) button.remove();
    handles = [];
    for (let k = 0; k < points.length / 2; k++) grow();
    view.refresh();
  }

  /** A handle for the next point; which point it moves is asked each time, since points before it may go. */
  function grow() {
    const one = live.handle(view, {
      at: () => points.slice(2 * which(), 2 * which() + 2),
      move: (...to) => (points.splice(2 * which(), 2, ...to), view.refresh()),
      done: save,
      remove: () => remove(which()),
      chosen: () => ((chosen = which()), view.refresh()),
    });
    one.button.addEventListener("dblclick", () => remove(which()));
    const which = () => handles.indexOf(one);
    // In the order of the points, and x last, on top.
    (handles.at(-1)?.button ?? canvas).after(one.button);
    handles.push(one);
  }

  function add(a, b, focus) {
    if (points.length >= 2 * MOST) return;
    points.push(a, b);
    grow();
    chosen = handles.length - 1;
    if (focus) handles.at(-1).button.focus();
    view.refresh();
    save();
  }

  function remove(k) {
    if (points.length <= 2) return;
    const held = handles[k].button === document.activeElement;
    handles[k].button.remove();
    handles.splice(k, 1);
    points.splice(2 * k, 2);
    chosen = -1;
    if (held) handles[Math.min(k, handles.length - 1)].button.focus();
    view.refresh();
    save();
  }

  /** Of some places, the one farthest from all points. */
  function free() {
    const { random } = live.source(points.length);
    const gap = ([a, b]) => Math.min(...handles.map((_, k) => Math.hypot(points[2 * k] - a, points[2 * k + 1] - b)));
    const places = Array.from({ length: 30 }, () => [0, 0].map(() => round((random() - 0.5) * 2.4)));
    return places.reduce((best, one) => (gap(one) > gap(best) ? one : best));
  }

  canvas.addEventListener("click", (event) => add(...view.pointer(event), true));

  take(points);
});
