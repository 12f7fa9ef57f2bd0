// Chapter 2: a noise point and its walk to data, by any solver; a race of the solvers; five hundred points at once. Needs
// common.js and exact.js. Everything is computed here, with the exact denoiser.
"use strict";

live.part("walk", (root) => {
  const { element } = live;
  const EXTENT = 2.6;
  const SIGMA_DATA = 0.5;
  const CROWD = 500;
  const DATA = { blobs: exact.blobs, moons: exact.moons };
  // How each is drawn: as in the chapter's figures.
  const SOLVERS = {
    euler: { name: "Euler (DDIM)", short: "Euler", step: exact.euler, dash: [], mark: "circle" },
    heun: { name: "Heun", short: "Heun", step: exact.heun, dash: [7, 4], mark: "square" },
    ddpm: { name: "DDPM", short: "DDPM", step: exact.ddpm, dash: [1.5, 3.5], mark: "triangle" },
  };
  const PARTS = [["circle", "teacher"], ["triangle", "data"], ["square", "target"]]; // of the data, in their order

  const settings = live.settings(
    "walk",
    { data: "blobs", solver: "euler", steps: 9, rho: "7", seed: 0, x: 1.8, y: 1.5 },
    {
      data: Object.keys(DATA), solver: [...Object.keys(SOLVERS), "race"], steps: [2, 64], rho: ["1", "3", "7"],
      seed: [0, 9999], x: [-2.6, 2.6, false], y: [-2.6, 2.6, false],
    },
  );
  const now = { ...settings }; // what is shown; the address follows when a handle or a slider is let go
  delete now.set;
  const save = () => settings.set({ ...now, x: Math.round(100 * now.x) / 100, y: Math.round(100 * now.y) / 100 });

  // --- computing -----------------------------------------------------------------------------------------

  const data = () => DATA[now.data];
  const D = (x, sigma) => exact.denoise(data(), x, sigma);
  const racing = () => now.solver === "race";
  /** In a race each may ask the denoiser this often; Heun asks twice a step but for the last, so it is odd. */
  const budget = () => Math.min(63, now.steps | 1);
  const points = (name) => (!racing() ? now.steps : name === "heun" ? (budget() + 1) / 2 : budget());
  const ticks = () => (racing() ? (budget() + 1) / 2 : now.steps);
  /** How many steps a solver has taken after so many ticks; in a race a tick is two evaluations for each. */
  const taken = (name, tick) => (racing() && name !== "heun" ? Math.min(budget(), 2 * tick) : tick);
  const evaluations = (tick) => (racing() || now.solver === "heun" ? Math.max(0, 2 * tick - (tick === ticks())) : tick);

  /** A solver's walk from noise z: points of the plane, with their noise levels. */
  function walkFrom(name, z, seed) {
    const grid = live.karrasSigmas(points(name), exact.EPSILON, exact.T, Number(now.rho));
    const path = exact.walk(SOLVERS[name].step, D, z.map((v) => v * exact.T), grid, live.source(seed).normal);
    return { path, sigmas: [...grid, 0] };
  }
  const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  /** All levels are shown divided by the size of noisy data. */
  const shown = (x, sigma) => x.map((v) => v / Math.hypot(sigma, SIGMA_DATA));
  const runners = () => (racing() ? Object.keys(SOLVERS) : [now.solver]);

  let walks = {}; // of the point in hand, by solver
  let truth = null; // the exact path from it
  let tick = 0; // how far the walk has come
  let crowd = null; // the points that were thrown

  function compute() {
    const z = [now.x, now.y];
    truth = exact.exactPath(data(), z.map((v) => v * exact.T));
    walks = Object.fromEntries(runners().map((name) => [name, walkFrom(name, z, now.seed)]));
    view.refresh();
  }

  /** Throw points, or walk those that lie there once more: a few milliseconds of them in each frame. */
  function throwAll() {
    const { normal } = live.source(1000 + now.seed);
    const mine = (crowd = { z: Array.from({ length: CROWD }, () => [normal(), normal()]), walks: [], part: [], ends: [] });
    const batch = () => {
      if (crowd !== mine) return;
      const begun = performance.now();
      while (mine.part.length < CROWD && performance.now() - begun < 10) {
        const i = mine.part.length;
        const by = Object.fromEntries(runners().map((name) => [name, walkFrom(name, mine.z[i], 10_000 * (now.seed + 1) + i)]));
        const end = racing() ? exact.exactPath(data(), mine.z[i].map((v) => v * exact.T), exact.T, 64).path.at(-1)
          : by[now.solver].path.at(-1);
        mine.part.push(exact.groupOf(data(), end));
        mine.walks.push(by);
        mine.ends.push(end);
      }
      view.refresh();
      if (mine.part.length < CROWD) live.soon(batch);
    };
    batch();
  }

  // --- what the reader sees and handles ------------------------------------------------------------------

  const canvas = element("canvas", { role: "img", "aria-label": "A path from noise to data" });
  const stage = element("div", { class: "live-stage", role: "application", "aria-label": "Plane with a noise point" }, canvas);
  const say = element("p", { class: "live-say", role: "status", "aria-live": "polite" });
  const choice = (name, options) =>
    element("select", { onchange: (event) => change({ [name]: event.target.value }) },
      ...Object.entries(options).map(([value, text]) => element("option", { value, selected: now[name] === value }, text)));
  const steps = element("input", {
    type: "range", min: 2, max: 64, step: 1, value: now.steps,
    oninput: () => change({ steps: Number(steps.value) }, false),
    onchange: () => save(),
  });
  const [stepsName, stepsSaid] = [element("span", {}), element("output", {})];
  const button = (text, onclick, main) => element("button", { type: "button", onclick, class: main ? "live-main" : null }, text);
  const play = button("Play", () => (playing ? stop() : start()), true);
  const seedButton = button("New seed", () => change({ seed: (now.seed + 1) % 10_000 }));
  const row = (...children) => element("div", { class: "live-row" }, ...children);
  root.prepend(
    element("div", { class: "live-part", role: "group", "aria-label": "A walk from noise to data" },
      element("p", {}, "Drag the noise point, then press Play. Where does it end, and where does another solver take it?"),
      element("div", { class: "live-beside" },
        element("div", {}, stage, say),
        element("div", {},
          row(play, button("Step", () => (stop(), goTo(tick < ticks() ? tick + 1 : 0))), button("Reset", reset)),
          row(button(`Throw ${CROWD} points`, () => (stop(), (tick = 0), throwAll())), seedButton),
          row(element("label", {}, "Solver ", choice("solver", {
            euler: "Euler (DDIM)", heun: "Heun", ddpm: "DDPM", race: "race of all three",
          }))),
          row(element("label", {}, stepsName, steps, stepsSaid)),
          row(
            element("label", {}, "Grid ρ ", choice("rho", { 1: "1", 3: "3", 7: "7" })),
            element("label", {}, "Data ", choice("data", { blobs: "three blobs", moons: "two moons" })),
          ),
          element("p", { class: "live-hint" }, "Each position is divided by √(σ² + σ", element("sub", {}, "d"), "²), so that all levels fit into one picture."),
        ),
      ),
    ),
  );

  // --- drawing ---------------------------------------------------------------------------------------------

  const clouds = Object.fromEntries(Object.entries(DATA).map(([name, { means, s, logw }]) => {
    const { random, normal } = live.source(7);
    const draw = () => {
      let [u, k] = [random(), 0];
      while (k < logw.length - 1 && (u -= Math.exp(logw[k])) > 0) k++;
      return [0, 1].map((i) => (means[2 * k + i] + s * normal()) / SIGMA_DATA);
    };
    return [name, Array.from({ length: 400 }, draw).flat()];
  }));

  function mark(view, shape, [x, y], r, color, width = 0) {
    const { pen } = view;
    const [a, b] = view.at(x, y);
    pen.beginPath();
    if (shape === "circle") pen.arc(a, b, r, 0, 7);
    else if (shape === "square") pen.rect(a - 0.9 * r, b - 0.9 * r, 1.8 * r, 1.8 * r);
    else [[0, -1.25], [1.1, 0.75], [-1.1, 0.75], [0, -1.25]].forEach(([u, v], i) => pen[i ? "lineTo" : "moveTo"](a + u * r, b + v * r));
    pen.fillStyle = pen.strokeStyle = color;
    pen.lineWidth = width;
    if (width) pen.stroke();
    else pen.fill();
  }

  function draw(view) {
    const color = live.colors();
    const labels = [];
    const end = shown(truth.path.at(-1), 0);
    view.dots(clouds[now.data], 1.5, color.data, crowd ? 0.3 : 0.6);
    if (crowd) drawCrowd(view, color, labels);
    const line = ({ path, sigmas }, n = path.length - 1) => path.slice(0, n + 1).flatMap((x, i) => shown(x, sigmas[i]));
    view.line(line(truth), 5, color.data, 0.45);
    for (const [name, one] of Object.entries(walks)) {
      const { dash, mark: shape, short } = SOLVERS[name];
      const n = taken(name, tick);
      view.pen.setLineDash(dash);
      view.line(line(one, n), 2, color.teacher);
      view.pen.setLineDash([]);
      for (let i = 1; i <= n; i++) mark(view, shape, shown(one.path[i], one.sigmas[i]), i === n ? 6 : 2.6, color.teacher);
      const at = shown(one.path[n], one.sigmas[n]);
      if (n) labels.push({ at, text: short, color: color.teacher, up: at[1] > end[1] ? 18 : -18 });
      if (n && n < one.path.length - 1 && !racing()) {
        const guess = shown(D(one.path[n], one.sigmas[n]), 0);
        mark(view, "circle", guess, 5, color.teacher, 2);
        labels.push({ at: guess, text: "guess", color: color.teacher, up: -16 });
      }
    }
    view.ring(...end, 8, color.data, 2);
    labels.unshift({ at: [now.x, now.y], text: "noise", color: color.ink, up: end[1] < now.y ? 22 : -22 });
    if (tick === ticks()) labels.push({ at: end, text: "exact end", color: color.data, up: labels[1]?.up > 0 ? -22 : 22 });
    view.dots([now.x, now.y], 9, color.paper);
    view.ring(now.x, now.y, 9, color.ink, 2.5);
    view.words(labels);
    if (!racing()) {
      view.pen.textAlign = "left";
      view.pen.fillStyle = color.ink;
      view.pen.fillText(`σ = ${level()}`, 4, 12);
    }
    tell();
  }

  /** The noise level where the walk stands. */
  const level = () => Number(walks[runners()[0]].sigmas[tick].toPrecision(2));

  /** The thrown points where they are now, marked by the part of the data in which they end. */
  function drawCrowd(view, color, labels) {
    const count = crowd.part.length;
    const at = crowd.z.map((z, i) => {
      const one = racing() || i >= count ? null : crowd.walks[i][now.solver];
      return one ? shown(one.path[tick], one.sigmas[tick]) : z;
    });
    view.pen.globalAlpha = 0.75;
    at.forEach((x, i) => (i < count ? mark(view, PARTS[crowd.part[i]][0], x, 3, color[PARTS[crowd.part[i]][1]]) : view.dots(x, 1.5, color.data)));
    view.pen.globalAlpha = 1;
    if (count < CROWD) return;
    const middles = data().names.map((_, part) => {
      const mine = at.filter((_, i) => crowd.part[i] === part);
      return [0, 1].map((i) => mine.reduce((sum, x) => sum + x[i], 0) / mine.length);
    });
    // Regions have names where most points lie nearest to the middle of their own kind.
    const own = at.filter((x, i) => middles.every((m) => far(x, m) >= far(x, middles[crowd.part[i]]) || Number.isNaN(m[0])));
    crowd.apart = own.length / CROWD > 0.7;
    if (crowd.apart) {
      middles.forEach((m, part) => {
        const [text, role] = [data().names[part], PARTS[part][1]];
        if (!Number.isNaN(m[0])) labels.push({ at: m, text: tick === 0 || racing() ? `to the ${text}` : text, color: color[role], up: 1 });
      });
    }
  }

  // --- words -------------------------------------------------------------------------------------------------

  const place = ([a, b]) => `(${a.toFixed(2)}, ${b.toFixed(2)})`.replaceAll("-", "−");
  const number = (v) => (v >= 100 ? "over 100" : v.toFixed(v < 0.1 ? 3 : 2));

  function tell() {
    const exactEnd = truth.path.at(-1);
    const ends = Object.entries(walks).map(([name, { path }]) => [name, path.at(-1)]);
    if (crowd) say.textContent = crowdSaid();
    else if (tick < ticks()) {
      const where = racing() ? "" : `At σ = ${level()}, `;
      say.textContent = `${where}${where ? "after" : "After"} ${evaluations(tick)} of ${evaluations(ticks())} evaluations${racing() ? " each" : ""}.`;
    } else if (racing()) {
      const off = ends.map(([name, x]) => `${SOLVERS[name].short} ${number(far(x, exactEnd))}`);
      say.textContent = `After ${budget()} evaluations each, the distance to the exact end: ${off.join(", ")}.`;
    } else {
      const [[name, end]] = ends;
      const apart = far(end, exactEnd);
      say.textContent = `${SOLVERS[name].name} ends at ${place(end)}, in the ${data().names[exact.groupOf(data(), end)]}, after ` +
        `${evaluations(tick)} evaluations: ${number(apart)} from the exact end.`;
    }
    stepsName.textContent = racing() ? "Evaluations each" : "Steps";
    stepsSaid.textContent = racing() ? budget() : `${now.steps}`;
    steps.setAttribute("aria-valuetext", racing() ? `${budget()} evaluations each` : `${now.steps} steps`);
    handle.place(`Noise point at ${place([now.x, now.y])}, in units of 80`);
    root.dataset.result = JSON.stringify({
      start: [now.x, now.y].map((v) => v * exact.T),
      exact: exactEnd,
      ends: Object.fromEntries(ends),
      crowd: crowd && crowd.part.length === CROWD ? crowd.counts : null,
    });
  }

  function crowdSaid() {
    const done = crowd.part.length;
    if (done < CROWD) return `${done} of ${CROWD} points are on their way.`;
    const names = data().names;
    crowd.counts = { parts: names.map((_, part) => crowd.part.filter((p) => p === part).length) };
    if (!racing()) {
      const counts = names.map((name, part) => `${crowd.counts.parts[part]} to the ${name}`).join(", ");
      const sides = crowd.apart ? "" : " From here, nobody could tell who goes where.";
      return `${SOLVERS[now.solver].short} brings ${counts}.${sides}`;
    }
    const each = Object.keys(SOLVERS).map((name) => {
      const ends = crowd.walks.map((by) => by[name].path.at(-1));
      const other = ends.filter((x, i) => exact.groupOf(data(), x) !== crowd.part[i]).length;
      crowd.counts[name] = other;
      return `${SOLVERS[name].short} sends ${other}`;
    });
    const kind = now.data === "moons" ? "moon" : "blob";
    return `Of ${CROWD} points, ${each.join(", ")} to another ${kind} than the exact path does.`;
  }

  // --- playing -----------------------------------------------------------------------------------------------

  let playing = 0;

  function change(what, keep = true) {
    const atEnd = tick === ticks();
    stop();
    Object.assign(now, what);
    tick = atEnd || tick > ticks() ? ticks() : tick;
    compute();
    if (crowd) throwAll();
    if (keep) save();
  }

  function goTo(next) {
    tick = next;
    view.refresh();
  }

  function start() {
    if (live.still.matches) return goTo(ticks());
    if (tick === ticks()) goTo(0);
    const wait = Math.min(500, Math.max(40, 3500 / ticks()));
    const next = () => {
      goTo(tick + 1);
      if (tick < ticks()) playing = setTimeout(next, wait);
      else stop();
    };
    playing = setTimeout(next, wait);
    play.textContent = "Pause";
  }

  function stop() {
    clearTimeout(playing);
    playing = 0;
    play.textContent = "Play";
  }

  /** The whole walk of the point, nothing thrown, the same seed. */
  function reset() {
    stop();
    crowd = null;
    goTo(ticks());
  }

  const view = live.plane(canvas, { extent: EXTENT, draw });
  const handle = live.handle(view, {
    at: () => [now.x, now.y],
    move: (x, y) => {
      const inside = (v) => Math.max(-2.6, Math.min(2.6, v));
      Object.assign(now, { x: inside(x), y: inside(y) });
      compute();
    },
    done: save,
  });
  canvas.addEventListener("click", (event) => {
    const [x, y] = view.pointer(event);
    Object.assign(now, { x, y });
    compute();
    save();
  });
  live.onView(root, (seen) => seen || stop());
  tick = ticks();
  compute();
});
