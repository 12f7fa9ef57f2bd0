// A student that learns in the page: consistency distillation in a worker (method.js), and on the page what it has learned so far.
// <div class="live-learn"> is the whole part, <div class="live-learn live-small"> a picture, one button and one line.
"use strict";

(() => {
  const [LIMIT, LOOK] = [3000, 50]; // steps at a stretch; steps from one measurement to the next

  /**
   * The worker: takes { ask: "begin" | "run" | "pause" | "step", ... } and posts { kind: "scene" | "frame", run, ... }.
   * Its text is sent to it, so it uses nothing but its arguments.
   */
  function work(method, post, listen, LOOK) {
    const [SHOWN, PATHS] = [500, 6]; // of a picture; measured are 2,000 samples and 64 paths
    let student, scene, records, run;
    let [running, until, every, heard, sum, count] = [false, 0, 0, 0, 0, 0];

    function begin(message) {
      student = method.train(message.settings);
      run = message.run;
      running = false;
      [sum, count, heard] = [0, 0, 0];
      const { drawData, drawNoise, slicedWasserstein, walk, sigmaMax, source } = method;
      const random = source(7); // the noise stays the same, whatever the seed of the student
      const { data, sigmas, N, solver } = student;
      const [real, again] = [drawData(data, 2000, random), drawData(data, 2000, random)];
      const noise = drawNoise(2000, random).map((z) => sigmaMax * z);
      // Exact paths: Heun's method on a grid with many points between those of the student's.
      const between = Math.ceil(120 / (N - 1));
      const fine = method.karrasSigmas((N - 1) * between + 1);
      const paths = walk(data, noise.slice(0, 128), fine, "heun").filter((_, i) => i % between === 0);
      const taught = walk(data, noise, sigmas, solver).at(-1); // what a perfect student of this teacher answers
      scene = { real, noise, paths, levels: Float64Array.from(sigmas.flatMap((s) => new Array(64).fill(s))) };
      scene.points = Float64Array.from(paths.flatMap((x) => [...x]));
      scene.shown = Float64Array.from(paths.flatMap((x) => [...x.slice(0, 2 * PATHS)]));
      scene.shownLevels = Float64Array.from(sigmas.flatMap((s) => new Array(PATHS).fill(s)));
      records = { steps: [], loss: [], distance: [] };
      // Between real data and real data: the mean over three pairs, since one pair may be lucky.
      const more = [again, drawData(data, 2000, random), drawData(data, 2000, random)];
      const floor = more.reduce((sum, one) => sum + slicedWasserstein(one, real) / more.length, 0);
      const teacher = slicedWasserstein(taught, real);
      post({ kind: "scene", run, real: real.slice(0, 2 * SHOWN), sigmas, paths, floor, teacher });
      look();
      show();
    }

    /** What is measured every LOOK steps, and stays: mean loss, distance of the samples to data, and of the answers to the ends. */
    function look() {
      const answers = student.answer(scene.points, scene.levels);
      const ends = scene.paths.at(-1);
      records.errors = student.sigmas.map((_, i) => {
        let total = 0;
        for (let j = 0; j < 128; j++) total += (answers[128 * i + j] - ends[j]) ** 2;
        return Math.sqrt(total / 64);
      });
      records.steps.push(student.steps);
      records.loss.push(count ? sum / count : NaN);
      records.distance.push(method.slicedWasserstein(student.answer(scene.noise, method.sigmaMax), scene.real));
      [sum, count] = [0, 0];
    }

    function show() {
      const samples = student.answer(scene.noise.subarray(0, 2 * SHOWN), method.sigmaMax);
      const answers = student.answer(scene.shown, scene.shownLevels);
      const { steps, loss } = student;
      post({ kind: "frame", run, steps, loss, samples, answers, records, running: running && steps < until });
      heard = performance.now();
    }

    function step() {
      student.step();
      sum += student.loss;
      count += 1;
      if (student.steps % LOOK === 0) look();
    }

    /** As many steps as fit between two pictures, and a picture. */
    function turn(mine) {
      if (!running || mine !== run) return;
      const begun = performance.now();
      do step();
      while (student.steps < until && performance.now() - begun < 24);
      if (student.steps >= until) running = false;
      if (!running || performance.now() - heard >= every) show();
      if (running) setTimeout(() => turn(mine));
    }

    listen((message) => {
      if (message.ask === "begin") return begin(message);
      if (!student || message.run !== run) return;
      const was = running;
      running = message.ask === "run";
      if (running) {
        ({ until, every } = message);
        if (!was) turn(run);
      } else if (message.ask === "step") {
        step();
        show();
      } else if (was) show();
    });
  }

  /** The worker, or where there is none the page itself, by turns. */
  function learner(receive) {
    const sent = `"use strict"; const tools = { source: ${live.source}, karrasSigmas: ${live.karrasSigmas} };
      const method = { ...(${live.method})(tools), ...tools };
      (${work})(method, (m) => postMessage(m), (f) => { onmessage = (event) => f(event.data); }, ${LOOK});`;
    try {
      const worker = new Worker(URL.createObjectURL(new Blob([sent], { type: "text/javascript" })));
      worker.onmessage = (event) => receive(event.data);
      return (message) => worker.postMessage(message);
    } catch {
      let answer;
      work({ ...live.method(live), ...live }, receive, (f) => (answer = f), LOOK);
      return (message) => setTimeout(() => answer(message));
    }
  }

  const LEGEND =
    "Gray: data. Orange: the student's samples, each one call from noise. Blue: exact paths, and in orange the student's answers from points on them.";

  const BREAKS = { boundary: "No boundary", gradient: "No stop-gradient", swapped: "Target swapped" };
  const DEFAULTS = { seed: 0, data: "moons", N: 18, solver: "heun", weight: "gap", mu: 0, lr: 0.006, break: "none" };
  const CHECKS = {
    seed: [0, 9999],
    data: ["moons", "ring", "blobs", "spiral"],
    N: [4, 40],
    solver: ["heun", "euler"],
    weight: ["gap", "uniform"],
    mu: [0, 0.999, false],
    lr: [0.0001, 0.1, false],
    break: ["none", ...Object.keys(BREAKS)],
  };

  // --- words ------------------------------------------------------------------------------------------

  /** Three digits, as the book writes numbers. */
  function brief(value) {
    if (!Number.isFinite(value)) return "not a number";
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-4)) {
      const power = Math.floor(Math.log10(size));
      const digits = String(power)
        .replace("-", "⁻")
        .replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
      return `${(value / 10 ** power).toFixed(1)} · 10${digits}`;
    }
    if (size >= 100) return Math.round(value).toLocaleString("en-US");
    return String(Number(value.toPrecision(size < 0.001 ? 1 : 2)));
  }

  const distanceOf = (points, i, [x, y]) => Math.hypot(points[2 * i] - x, points[2 * i + 1] - y);

  /** Middle and reach of a cloud: how far from its middle its points lie at most. */
  function cloud(points) {
    const n = points.length / 2;
    const middle = [0, 1].map((d) => points.reduce((sum, value, j) => (j % 2 === d ? sum + value / n : sum), 0));
    return { middle, all: Math.max(...Array.from({ length: n }, (_, i) => distanceOf(points, i, middle))) };
  }

  /** Whether two runs can be held against each other: losses at another N or λ, or of other data, cannot. */
  const comparable = (a, b) => ["data", "N", "weight"].every((name) => a[name] === b[name]);

  /** One sentence or two about what has just been computed. */
  function remark(scene, frame, before) {
    const { steps, loss, distance, errors } = frame.records;
    if (!steps.length || frame.steps < LOOK) return "";
    const last = steps.length - 1;
    const now = cloud(frame.samples);
    const real = cloud(scene.real);
    const size = frame.samples.length / 2;
    if (!Number.isFinite(now.all)) return "The answers have grown too large for the computer to hold: nothing keeps them in place.";
    if (now.all < 0.05 * real.all) {
      return `All ${size} samples lie within ${brief(now.all)} of one point, and the loss is only ${brief(loss[last])}: a constant always agrees with itself.`;
    }
    const away = Float64Array.from({ length: size }, (_, i) => distanceOf(frame.samples, i, real.middle)).sort();
    const gone = away.filter((d) => d > 2 * real.all).length;
    if (gone > size / 10) {
      return `The samples run away: ${gone} of ${size} are far out, the farthest ${brief(away[size - 1])} from the middle of the data, while no data point is more than ${brief(real.all)} away.${last > 1 ? ` The loss went from ${brief(loss[1])} to ${brief(loss[last])}.` : ""}`;
    }
    const then = before?.records.steps.indexOf(steps[last]) ?? -1;
    if (then > 0) {
      const [l, d] = [before.records.loss[then], before.records.distance[then]];
      const verdict =
        loss[last] < l && distance[last] > d
          ? "A lower loss, and worse samples. "
          : loss[last] > l && distance[last] < d
            ? "A higher loss, and better samples. "
            : "";
      return `${verdict}At step ${steps[last]} the loss is ${brief(loss[last])}, and was ${brief(l)} in the dashed run; the distance to the data is ${brief(distance[last])}, and was ${brief(d)}.`;
    }
    const wrong = errors.findLastIndex((error) => error > 0.1); // levels fall along the grid
    if (wrong < 0) return "At every noise level the answers lie, on average, within 0.1 of the ends of their paths.";
    if (wrong + 1 >= errors.length) return "";
    return `Below σ = ${brief(scene.sigmas[wrong])} the answers lie, on average, within 0.1 of the ends of their paths. Above it, they're farther off.`;
  }

  // --- pictures -----------------------------------------------------------------------------------------

  /** What a path looks like where all levels fit into one picture: x divided by √(σ² + σ_d²), in units of σ_d. */
  function pathOf(scene, k) {
    return scene.sigmas.flatMap((sigma, i) => {
      const scale = 0.5 / Math.sqrt(sigma ** 2 + 0.25);
      return [scale * scene.paths[i][2 * k], scale * scene.paths[i][2 * k + 1]];
    });
  }

  function answersOf(scene, frame, k) {
    const each = frame.answers.length / scene.sigmas.length;
    return scene.sigmas.flatMap((_, i) => [frame.answers[each * i + 2 * k], frame.answers[each * i + 2 * k + 1]]);
  }

  const faceOf = (view) => getComputedStyle(view.canvas).fontFamily;

  function drawPlane(view, scene, frame, paths) {
    if (!frame) return;
    const color = live.colors();
    view.dots(scene.real, 1.6, color.data, 0.45);
    for (let k = 0; k < paths; k++) view.line(pathOf(scene, k), 1.2, color.teacher, 0.75);
    view.dots(frame.samples, 2.2, color.student, 0.8);
    for (let k = 0; k < paths; k++) {
      const [path, answers] = [pathOf(scene, k), answersOf(scene, frame, k)];
      view.line(answers, 2, color.student);
      view.ring(path[0], path[1], 5, color.teacher);
      view.dots(answers.slice(0, 2), 5, color.student);
    }
    const { pen } = view;
    pen.font = `14px ${faceOf(view)}`;
    pen.textBaseline = "middle";
    if (paths) {
      const [x, y] = view.at(...pathOf(scene, 0).slice(0, 2));
      write(pen, "noise", x + 10, y, color.teacher, color.paper);
      const [u, v] = view.at(...answersOf(scene, frame, 0).slice(0, 2));
      if (Math.hypot(u - x, v - y) > 30) write(pen, "its answer", u + 10, v, color.ink, color.paper);
    }
    let outside = 0;
    for (let j = 0; j < frame.samples.length; j += 2) {
      const [x, y] = view.at(frame.samples[j], frame.samples[j + 1]);
      if (!(x >= 0 && x <= view.width && y >= 0 && y <= view.height)) outside += 1;
    }
    if (outside)
      write(pen, `${outside} of ${frame.samples.length / 2} samples are outside`, 8, 14, color.ink, color.paper);
  }

  function write(pen, text, x, y, color, paper) {
    pen.lineWidth = 5;
    pen.lineJoin = "round";
    pen.strokeStyle = paper;
    pen.strokeText(text, x, y);
    pen.fillStyle = color;
    pen.fillText(text, x, y);
  }

  /** Axes of a chart, logarithmic in y: functions from values to pixels. */
  function axes(view, { title, x: [low, high], y: [least, most], logX, ticks, name, right }) {
    const { pen, width, height } = view;
    const color = live.colors();
    const [left, top, bottom] = [44, 26, 24];
    const scale = (v, a, b, log) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
    const at = {
      x: (v) => left + scale(v, low, high, logX) * (width - left - right),
      y: (v) =>
        height - bottom - scale(Math.min(most, Math.max(least, v)), least, most, true) * (height - top - bottom),
    };
    pen.font = `600 14px ${faceOf(view)}`;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    pen.fillStyle = color.ink;
    pen.fillText(title, 2, 10);
    pen.font = `13px ${faceOf(view)}`;
    pen.strokeStyle = color.data;
    pen.lineWidth = 0.5;
    pen.textAlign = "right";
    const decades = Math.round(Math.log10(most / least));
    for (let k = 0; k <= decades; k += Math.ceil(decades / 4)) {
      const value = least * 10 ** k;
      pen.globalAlpha = 0.5;
      pen.beginPath();
      pen.moveTo(left, at.y(value));
      pen.lineTo(width - right, at.y(value));
      pen.stroke();
      pen.globalAlpha = 1;
      pen.fillText(
        value < 0.01 || value > 1000 ? brief(value).replace("1.0 · ", "") : String(Number(value.toPrecision(1))),
        left - 6,
        at.y(value),
      );
    }
    pen.textAlign = "center";
    for (const tick of ticks) pen.fillText(tick.toLocaleString("en-US"), at.x(tick), height - bottom + 12);
    pen.textAlign = "left";
    pen.fillText(name, Math.min(at.x(ticks.at(-1)) + 18, width - 34), height - bottom + 12);
    return at;
  }

  function curve(pen, at, xs, ys, color, width, dash = []) {
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.beginPath();
    let begun = false;
    xs.forEach((x, i) => {
      if (!(ys[i] > 0)) return;
      if (begun) pen.lineTo(at.x(x), at.y(ys[i]));
      else pen.moveTo(at.x(x), at.y(ys[i]));
      begun = true;
    });
    pen.stroke();
    pen.setLineDash([]);
  }

  /** Loss and distance against steps; dashed, those of the last run in which nothing was broken. */
  function drawCurves(view, scene, frame, before) {
    if (!frame) return;
    const [{ pen }, color, { steps, loss, distance }] = [view, live.colors(), frame.records];
    const seen = [
      ...loss,
      ...distance,
      scene.floor,
      ...(before ? [...before.records.loss, ...before.records.distance] : []),
    ].filter((v) => v > 0);
    const y = [
      10 ** Math.floor(Math.log10(Math.min(1e-3, ...seen))),
      10 ** Math.ceil(Math.log10(Math.max(0.99, ...seen))),
    ];
    const most = Math.max(LIMIT, Math.ceil(frame.steps / LIMIT) * LIMIT);
    const at = axes(view, {
      title: before ? "While it learns (dashed: before)" : "While it learns",
      x: [0, most],
      y,
      ticks: [0, most / 3, (2 * most) / 3],
      name: "steps",
      right: 66,
    });
    if (before) {
      curve(pen, at, before.records.steps, before.records.loss, color.ink, 1, [4, 4]);
      curve(pen, at, before.records.steps, before.records.distance, color.student, 1, [4, 4]);
    }
    curve(pen, at, [0, most], [scene.floor, scene.floor], color.data, 1.5, [1, 3]);
    curve(pen, at, steps, loss, color.ink, 1.5);
    curve(pen, at, steps, distance, color.student, 2.5);
    const x = view.width - 62;
    const places = [
      ["distance", distance.at(-1), color.student],
      ["floor", scene.floor, color.data],
      ["loss", loss.at(-1), color.ink],
    ]
      .filter(([, value]) => value > 0)
      .map(([word, value, ink]) => [word, at.y(value), ink])
      .sort((a, b) => a[1] - b[1]);
    places.forEach((place, i) => (place[1] = i ? Math.max(place[1], places[i - 1][1] + 18) : place[1]));
    for (const [word, height, ink] of places) {
      pen.fillStyle = ink;
      pen.fillText(word, x, height);
    }
  }

  /** Distance of the answers to the ends of the paths, against the noise level: knowledge travels from data to noise. */
  function drawLevels(view, scene, frame) {
    if (!frame) return;
    const [{ pen }, color] = [view, live.colors()];
    const errors = frame.records.errors.map((error) => (error < 1e-3 ? NaN : error)); // at ε there is none
    const most = Math.max(1, 10 ** Math.ceil(Math.log10(Math.max(...errors.filter(Number.isFinite)))));
    const at = axes(view, {
      title: "Distance of its answers to the ends of the paths",
      x: [0.002, 80],
      logX: true,
      y: [1e-3, most],
      ticks: [0.01, 0.1, 1, 10],
      name: "σ",
      right: 66,
    });
    curve(pen, at, [0.002, 80], [0.1, 0.1], color.data, 1.5, [1, 3]);
    curve(pen, at, scene.sigmas, errors, color.student, 2.5);
    for (const [i, sigma] of scene.sigmas.entries()) {
      if (!(errors[i] > 0)) continue;
      pen.fillStyle = color.student;
      pen.beginPath();
      pen.arc(at.x(sigma), at.y(errors[i]), 3, 0, 7);
      pen.fill();
    }
    pen.fillStyle = color.data;
    pen.fillText("0.1", view.width - 62, at.y(0.1));
  }

  // --- the part -----------------------------------------------------------------------------------------

  live.part("learn", (root) => {
    const { element } = live;
    const small = root.matches(".live-small, [data-small]");
    const settings = live.settings(small ? "small" : "learn", DEFAULTS, CHECKS);
    const asked = [...new URLSearchParams(location.search).keys()].some((name) => name.startsWith("learn."));
    let scene, frame, before, send, kept, setup;
    let [run, limit, wanted, seen, fresh] = [0, LIMIT, false, false, true];
    // Without the boundary nothing holds the constant: once it is one, Adam may push it anywhere. It stops where it has been seen.
    const stretch = () => (settings.break === "boundary" ? 300 : LIMIT);

    // What the reader presses.
    const button = (words, act, more = {}) => element("button", { type: "button", onclick: act, ...more }, words);
    const play = button("Train", () => (wanted ? pause() : start()), { class: "live-main" });
    const say = element("p", { class: "live-say" });
    const aloud = element("p", { class: "live-aloud", role: "status", "aria-live": "polite" }); // as often as one can listen
    const figures = element("p", { class: "live-say live-figures" });
    const canvas = (name) => element("canvas", { role: "img", "aria-label": name });
    const plane = canvas(
      "Samples of the student over the data, and paths from noise to data with the student's answers along them",
    );

    const selects = {};
    function select(name, label, choices) {
      const one = element("select", {});
      const missing = !Object.keys(choices).includes(String(settings[name]));
      for (const [value, words] of Object.entries(
        missing ? { ...choices, [settings[name]]: settings[name] } : choices,
      )) {
        one.append(element("option", { value, selected: String(settings[name]) === value }, String(words)));
      }
      one.addEventListener("change", () =>
        change({ [name]: typeof DEFAULTS[name] === "number" ? Number(one.value) : one.value }),
      );
      selects[name] = one;
      return element("label", {}, label, one);
    }

    const seed = element("input", { type: "number", min: 0, max: 9999, value: settings.seed });
    seed.addEventListener("change", () => {
      const value = Math.min(9999, Math.max(0, Math.round(Number(seed.value) || 0)));
      seed.value = value;
      change({ seed: value });
    });
    const grid = element("input", { type: "range", min: 4, max: 40, value: settings.N });
    const points = element("output", {}, String(settings.N));
    grid.addEventListener("input", () => (points.textContent = grid.value));
    grid.addEventListener("change", () => change({ N: Number(grid.value) }));
    const breaks = Object.entries(BREAKS).map(([name, words]) =>
      button(
        words,
        () => {
          const broken = settings.break === name ? "none" : name;
          // Without the boundary a constant is perfect; the paper's weight 1 shows it, the other one hides it in large numbers.
          const weight = broken === "boundary" ? "uniform" : settings.break === "boundary" ? "gap" : settings.weight;
          change({ break: broken, weight });
          start();
        },
        { "aria-pressed": String(settings.break === name), "data-break": name },
      ),
    );

    const box = element("div", {
      class: `live-part live-learning${small ? " live-small" : ""}`,
      role: "group",
      "aria-label": "A student that learns",
    });
    const views = [[plane, (view) => drawPlane(view, scene, frame, small ? 0 : 6), small ? 1.3 : 1.35]];
    if (small) box.append(plane, element("div", { class: "live-row" }, play, say), aloud);
    else {
      const [curves, levels] = [
        canvas("Loss, and distance of the samples to the data, against training steps"),
        canvas("Distance of the student's answers to the ends of the paths, against noise level"),
      ];
      views.push(
        [curves, (view) => drawCurves(view, scene, frame, before), 1],
        [levels, (view) => drawLevels(view, scene, frame), 1],
      );
      const actions = [
        play,
        button("1 step", oneStep),
        button("Reset", () => begin()),
        button("New seed", () => {
          seed.value = (settings.seed + 1) % 10000;
          change({ seed: Number(seed.value) });
        }),
      ];
      box.append(
        element("div", { class: "live-row" }, ...actions),
        element(
          "div",
          { class: "live-row", role: "group", "aria-label": "Break it" },
          element("strong", {}, "Break it:"),
          ...breaks,
        ),
        element("div", { class: "live-learn-views" }, plane, element("div", {}, curves, levels)),
        figures,
        say,
        aloud,
        element(
          "div",
          { class: "live-row" },
          select("data", "Data", { moons: "two moons", ring: "ring", blobs: "two blobs", spiral: "spiral" }),
          element("label", {}, "Grid points N", grid, points),
          select("solver", "Teacher's step", { heun: "Heun", euler: "Euler" }),
          select("weight", "Weight λ", { gap: "1/(σ − σ′)", uniform: "1" }),
          select("mu", "Target's average μ", { 0: "0", 0.5: "0.5", 0.95: "0.95" }),
          select("lr", "Learning rate", { 0.001: "0.001", 0.006: "0.006", 0.02: "0.02" }),
          element("label", {}, "Seed", seed),
        ),
      );
    }
    root.append(box);
    const drawn = views.map(([one, draw, extent]) => live.plane(one, { extent, draw }));

    function receive(message) {
      if (message.run !== run) return;
      if (message.kind === "scene") {
        scene = message;
        return;
      }
      const first = !frame;
      frame = message;
      if (wanted && seen && !frame.running && frame.steps >= limit) wanted = false;
      root.dataset.steps = frame.steps;
      drawn.forEach((view) => view.refresh());
      tell(first);
    }

    /** Numbers and sentence with every picture, so that they agree; what is read aloud, at rest and now and then. */
    let [spoken, told] = [0, 0];
    function tell(now = false) {
      if (!frame) return;
      const { distance, loss, steps } = frame.records;
      play.textContent = wanted ? "Pause" : frame.steps >= limit ? "Train on" : frame.steps ? "Go on" : "Train";
      const [known, mean] = [distance.at(-1), loss.at(-1)];
      figures.textContent =
        `Step ${frame.steps.toLocaleString("en-US")}` +
        (mean > 0 ? ` · loss ${brief(mean)}` : "") +
        ` · distance to the data ${brief(known)} (the exact teacher's ${settings.N - 1} steps: ${brief(scene.teacher)}, floor: ${brief(scene.floor)})`;
      if (small) {
        say.textContent = frame.steps
          ? `Step ${steps.at(-1).toLocaleString("en-US")}: distance to the data ${brief(known)}; real data, drawn twice: ${brief(scene.floor)}.`
          : "Orange: one call of a network that has learned nothing yet. Gray: the data.";
      } else {
        say.textContent = remark(scene, frame, before) || LEGEND;
      }
      if (now || (told < LOOK && frame.steps >= LOOK) || !wanted || performance.now() - spoken > 4000) {
        [spoken, told] = [performance.now(), frame.steps];
        aloud.textContent = say.textContent;
      }
    }

    const ask = (word) => send?.({ ask: word, run, until: limit, every: live.still.matches ? 1000 : 0 });

    /** A fresh student by the settings; the last one in which nothing was broken stays as a dashed line. */
    function begin() {
      fresh = false;
      send ??= learner(receive);
      if (frame?.steps >= LOOK && setup.break === "none") kept = { frame, setup };
      setup = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, settings[name]]));
      before = kept && comparable(kept.setup, setup) ? kept.frame : undefined;
      for (const one of [figures, say]) one.textContent = "";
      delete root.dataset.steps;
      [wanted, limit, frame, spoken] = [false, stretch(), undefined, 0];
      run += 1;
      const { break: broken, ...others } = setup;
      send({ ask: "begin", run, settings: { ...others, broken } });
    }

    function change(changes) {
      const on = wanted;
      settings.set(changes);
      for (const one of breaks) one.setAttribute("aria-pressed", String(one.dataset.break === settings.break));
      for (const [name, one] of Object.entries(selects)) one.value = String(settings[name]);
      begin();
      if (on) start();
    }

    function start() {
      if (fresh) begin();
      if (frame && frame.steps >= limit) limit += stretch();
      wanted = true;
      play.textContent = "Pause";
      if (seen) ask("run");
    }

    function pause() {
      wanted = false;
      ask("pause");
    }

    function oneStep() {
      if (fresh) begin();
      wanted = false;
      ask("step");
    }

    live.onView(root, (shown) => {
      seen = shown;
      if (shown && fresh) {
        begin();
        if (asked && !small && !live.still.matches) start();
      } else if (wanted) ask(shown ? "run" : "pause");
    });
    root.learner = () => frame; // for tests, and the curious
  });
})();
