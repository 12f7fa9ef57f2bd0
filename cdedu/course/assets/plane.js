(figure) => {
  if (!figure || figure.dataset.ready) return;
  figure.dataset.ready = "yes";
  const settings = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const { sigmas, sigmaData: sd, extent } = settings;
  const canvas = figure.querySelector("canvas");
  const [text, toggle, thrower] = ["output", "input", "button"].map((name) => figure.querySelector(name));
  const calls = 2 * (sigmas.length - 1);

  // Weights travel as 16-bit integers with one scale a tensor.
  const unpack = ({ scale, data }) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    return Float32Array.from(new Int16Array(bytes.buffer), (v) => v * scale);
  };
  const network = (layers) => layers.map(({ weight, bias }) => ({ weight: unpack(weight), bias: unpack(bias) }));

  // The MLP of cdedu.networks: the point, then cosines and sines of multiples of c_noise; SiLU between the layers.
  const run = (layers, x, cNoise) => {
    let h = Float64Array.of(...x, ...[1, 2, 3, 4, 5, 6, 7, 8].map((k) => Math.cos(k * cNoise)),
      ...[1, 2, 3, 4, 5, 6, 7, 8].map((k) => Math.sin(k * cNoise)));
    layers.forEach(({ weight, bias }, depth) => {
      const out = Float64Array.from(bias);
      for (let i = 0; i < out.length; i++) for (let j = 0; j < h.length; j++) out[i] += weight[i * h.length + j] * h[j];
      h = depth < layers.length - 1 ? out.map((v) => v / (1 + Math.exp(-v))) : out;
    });
    return h;
  };
  // c_skip x + c_out F(c_in x, ln(sigma) / 4); the student's coefficients have sigma - epsilon where the teacher's have sigma.
  const model = ({ layers, epsilon }) => {
    const weights = network(layers);
    return (x, sigma) => {
      const [gap, root] = [sigma - epsilon, Math.hypot(sigma, sd)];
      const F = run(weights, x.map((v) => v / root), Math.log(sigma) / 4);
      return x.map((v, i) => (sd * sd / (gap * gap + sd * sd)) * v + ((sd * gap) / root) * F[i]);
    };
  };
  const [teacher, student] = [model(settings.teacher), model(settings.student)];
  const heun = (x, s, t) => {
    const d = teacher(x, s).map((D, i) => (x[i] - D) / s);
    const e = x.map((v, i) => v + (t - s) * d[i]);
    return teacher(e, t).map((D, i) => x[i] + ((t - s) * (d[i] + (e[i] - D) / t)) / 2);
  };
  const walk = (z) => {
    const path = [z.map((v) => v * sigmas[0])];
    for (let i = 0; i + 1 < sigmas.length; i++) path.push(heun(path[i], sigmas[i], sigmas[i + 1]));
    return path;
  };

  // --- which part of the data a point belongs to: points nearer than sd / 3 hang together -------------------------

  const cloud = unpack(settings.data);
  const apart = (x, j) => Math.hypot(x[0] - cloud[2 * j], x[1] - cloud[2 * j + 1]);
  const part = Array(cloud.length / 2).fill(-1);
  let parts = 0;
  for (let first; (first = part.indexOf(-1)) >= 0; parts++) {
    const open = [first];
    part[first] = parts;
    for (const i of open) {
      const x = [cloud[2 * i], cloud[2 * i + 1]];
      part.forEach((p, j) => p < 0 && apart(x, j) < sd / 3 && ((part[j] = parts), open.push(j)));
    }
  }
  const partOf = (x) => part[part.reduce((best, _, j) => (apart(x, j) < apart(x, best) ? j : best), 0)];
  const height = (p) => part.reduce((sum, q, j) => (q === p ? [sum[0] + cloud[2 * j + 1], sum[1] + 1] : sum), [0, 0]);
  const upper = [0, 1].map(height).map(([sum, n]) => sum / n).reduce((best, h, p, all) => (h > all[best] ? p : best), 0);
  thrower.hidden = parts !== 2; // only of two moons it can be said in words

  // --- drawing ---------------------------------------------------------------------------------------------------

  // In the book the page has colours for the roles in either theme. Elsewhere the given ones are drawn, and words have the page's own
  // colour, which can be read on whatever is behind them.
  const palette = () => {
    const style = getComputedStyle(figure);
    const of = (name, other) => style.getPropertyValue(name).trim() || other;
    const roles = ["teacher", "student", "data"].map((role) => [role, of(`--${role}`, settings.colors[role])]);
    const ink = of("--pst-color-text-base", style.color);
    const words = (role) => of(`--${role}`, ink);
    return { ...Object.fromEntries(roles), ink, paper: of("--pst-color-background", ""), words };
  };

  let z = settings.start;
  let [size, colors, pen, taken] = [420, null, null, []];
  // Each point is shown divided by sqrt(sigma^2 + sigma_data^2), so that all levels fit into one picture.
  const spot = (u) => u.map((v, i) => ((i ? -v : v) / extent + 1) * size / 2);
  const at = (x, sigma) => spot(x.map((v) => v / Math.hypot(sigma, sd)));
  const dot = ([a, b], radius, color, hollow) => {
    pen.beginPath();
    pen.arc(a, b, radius, 0, 7);
    pen[hollow ? "strokeStyle" : "fillStyle"] = color;
    pen.lineWidth = 2;
    hollow ? pen.stroke() : pen.fill();
  };
  const say = (words, [a, b], up, role) => {
    const half = pen.measureText(words).width / 2 + 4;
    const clear = (y) => taken.every(([p, q, h]) => Math.abs(p - x) > half + h || Math.abs(q - y) > 17);
    const inside = (v, gap) => Math.max(gap, Math.min(size - gap, v));
    const x = inside(a, half);
    const tries = [up, -up, 2 * up, -2 * up, 3 * up, -3 * up].map((v) => inside(b - v, 10));
    const y = tries.find(clear) ?? tries[0];
    taken.push([x, y, half]);
    if (colors.paper) {
      [pen.strokeStyle, pen.lineWidth, pen.lineJoin] = [colors.paper, 4, "round"];
      pen.strokeText(words, x, y);
    }
    pen.fillStyle = role ? colors.words(role) : colors.ink;
    pen.fillText(words, x, y);
  };

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    size = canvas.clientWidth || 420;
    canvas.width = canvas.height = size * ratio;
    [pen, colors, taken] = [canvas.getContext("2d"), palette(), []];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = `600 ${size < 360 ? 12 : 14}px ${getComputedStyle(figure).fontFamily}`;
    [pen.textAlign, pen.textBaseline] = ["center", "middle"];
    pen.globalAlpha = thrown ? 0.3 : 0.5;
    for (let i = 0; i < cloud.length; i += 2) dot(at([cloud[i], cloud[i + 1]], 0), 1.3, colors.data);
    pen.globalAlpha = 1;
    if (thrown) drawThrown();
    const path = walk(z);
    const end = student(path[0], sigmas[0]);
    const [noise, last, leap] = [at(path[0], sigmas[0]), path[path.length - 1], at(end, 0)];
    // The leap, in an arc that keeps off the walk.
    const bend = [0, 1].map((i) => (noise[i] + leap[i]) / 2 + (i ? 1 : -1) * (leap[1 - i] - noise[1 - i]) * 0.35);
    [pen.strokeStyle, pen.lineWidth] = [colors.student, 1.8];
    pen.setLineDash([6, 4]);
    pen.beginPath();
    pen.moveTo(...noise);
    pen.quadraticCurveTo(...bend, ...leap);
    pen.stroke();
    pen.setLineDash([]);
    [pen.strokeStyle, pen.lineWidth] = [colors.teacher, 1.8];
    pen.beginPath();
    path.forEach((x, i) => pen[i ? "lineTo" : "moveTo"](...at(x, sigmas[i])));
    pen.stroke();
    path.forEach((x, i) => dot(at(x, sigmas[i]), 2.4, colors.teacher));
    if (toggle.checked) path.forEach((x, i) => i && dot(at(student(x, sigmas[i]), 0), 3, colors.student, true));
    dot(at(last, 0), 5, colors.teacher, true);
    dot(leap, 5.5, colors.student);
    dot(noise, 10, colors.ink, true);
    if (thrown) sayRegions();
    else {
      const middle = [0, 1].map((i) => (noise[i] + 2 * bend[i] + leap[i]) / 4);
      say("noise", noise, noise[1] < leap[1] ? 22 : -22);
      say("student’s leap, 1 evaluation", middle, middle[1] < (noise[1] + leap[1]) / 2 ? 16 : -16, "student");
      say(`teacher’s walk, ${calls} evaluations`, at(last, 0), leap[1] < noise[1] ? 18 : -18, "teacher");
    }
    const place = (x) => `(${x.map((v) => v.toFixed(2)).join(", ")})`;
    text.textContent = thrown ? thrownSaid() : `Teacher ${place(last)} after ${calls} evaluations, student ${place(end)} after one, ` +
      `${Math.hypot(last[0] - end[0], last[1] - end[1]).toFixed(2)} apart.`;
    figure.dataset.result = JSON.stringify({ z, teacher: last, student: end });
  };

  // --- five hundred points -----------------------------------------------------------------------------------------

  let thrown = null;
  const many = 500;
  // Numbers of mulberry32, so that the same five hundred fall again.
  let state = 1;
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  const normal = () => Math.round(1e4 * Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random())) / 1e4;

  const throwAll = () => {
    rest();
    const mine = (thrown = { z: Array.from({ length: many }, () => [normal(), normal()]), walked: [], leapt: [], ends: [] });
    const batch = () => {
      if (thrown !== mine) return;
      for (const begun = performance.now(); mine.walked.length < many && performance.now() - begun < 12;) {
        const path = walk(mine.z[mine.walked.length]);
        const end = student(path[0], sigmas[0]);
        mine.walked.push(partOf(path[path.length - 1]));
        mine.leapt.push(partOf(end));
        mine.ends.push(end);
      }
      if (mine.walked.length === many) {
        mine.elsewhere = mine.walked.filter((p, i) => p !== mine.leapt[i]).length;
        figure.dataset.thrown = JSON.stringify({ z: mine.z, elsewhere: mine.elsewhere });
      } else if (document.hidden) setTimeout(batch);
      else requestAnimationFrame(batch);
      draw();
    };
    batch();
  };
  const cross = ([a, b], r) => {
    pen.beginPath();
    for (const s of [-1, 1]) (pen.moveTo(a - r, b - s * r), pen.lineTo(a + r, b + s * r));
    pen.stroke();
  };
  // Where they start: a dot or a ring for the moon to which the teacher walks, a cross where the student leaps to the other one. The
  // crosses once more where it lands.
  const drawThrown = () => {
    pen.globalAlpha = 0.7;
    thrown.walked.forEach((p, i) => {
      if (p === thrown.leapt[i]) dot(spot(thrown.z[i]), 2.6, p === upper ? colors.teacher : colors.data, p !== upper);
    });
    pen.globalAlpha = 1;
    [pen.strokeStyle, pen.lineWidth] = [colors.student, 2.5];
    thrown.walked.forEach((p, i) => {
      if (p === thrown.leapt[i]) return;
      cross(spot(thrown.z[i]), 4);
      dot(at(thrown.ends[i], 0), 3, colors.student);
    });
  };
  const sayRegions = () => {
    for (const p of [upper, 1 - upper]) {
      const mine = thrown.z.filter((_, i) => thrown.walked[i] === p);
      if (!mine.length) continue;
      const mean = [0, 1].map((i) => mine.reduce((sum, x) => sum + x[i], 0) / mine.length);
      const [words, role] = p === upper ? ["teacher: to the upper moon", "teacher"] : ["teacher: to the lower moon", ""];
      say(words, spot(mean), 1, role);
    }
  };
  const thrownSaid = () => {
    const done = thrown.walked.length;
    if (done < many) return `${done} of ${many} points: the teacher is still walking.`;
    return `The student leaps from ${many} noise points. ${thrown.elsewhere} of them land on another moon than the teacher’s walk: the crosses.`;
  };

  // --- the reader's hand -------------------------------------------------------------------------------------------

  const move = (x, y) => {
    const limit = extent * 0.98;
    z = [x, y].map((v) => Math.max(-limit, Math.min(limit, v)));
    draw();
  };
  const where = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return [((clientX - box.left) / box.width * 2 - 1) * extent, (1 - (clientY - box.top) / box.height * 2) * extent];
  };
  // A finger on the noise point drags it; anywhere else it scrolls the page, and a tap brings the point there.
  const near = (touch) => Math.hypot(...where(touch).map((v, i) => v - z[i])) < (60 * extent) / size;
  let held = false;
  const follow = (event) => {
    if (!held) return;
    event.preventDefault();
    move(...where(event));
  };
  canvas.addEventListener("touchstart", (event) => near(event.touches[0]) && event.preventDefault(), { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    rest();
    held = event.pointerType !== "touch" || near(event);
    if (!held) return;
    canvas.setPointerCapture?.(event.pointerId);
    canvas.focus({ preventScroll: true });
    follow(event);
  });
  canvas.addEventListener("pointermove", follow);
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (held = false));
  canvas.addEventListener("click", (event) => move(...where(event)));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    rest();
    const size = event.shiftKey ? 0.25 : 0.05;
    move(z[0] + step[0] * size, z[1] + step[1] * size);
  });
  thrower.addEventListener("click", () => {
    if (!thrown) throwAll();
    else draw((thrown = null));
    thrower.textContent = thrown ? "Clear" : `Throw ${many} points`;
  });
  toggle.addEventListener("change", draw);
  window.addEventListener("resize", draw);
  new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

  // --- a beginning: once in view, the point goes round once, until it is touched -------------------------------------

  let moving = null;
  function rest() {
    moving = false;
    text.setAttribute("aria-live", "polite");
  }
  const circle = (begun) => (now) => {
    const turn = Math.min(1, Math.max(0, (now - begun) / 4500));
    if (moving === false) return;
    const [x, y] = settings.start;
    move(x + 0.35 * (Math.cos(2 * Math.PI * turn) - 1), y + 0.35 * Math.sin(2 * Math.PI * turn));
    if (turn < 1) requestAnimationFrame(circle(begun));
    else rest();
  };
  if (window.IntersectionObserver && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
    new IntersectionObserver((seen, observer) => {
      if (!seen[seen.length - 1].isIntersecting) return;
      observer.disconnect();
      if (moving === null) requestAnimationFrame((now) => ((moving = true), text.setAttribute("aria-live", "off"), circle(now)(now)));
    }, { threshold: 0.6 }).observe(canvas);
  }

  figure.querySelector("img").hidden = true;
  figure.querySelector(".cd-live").hidden = false;
  draw();
}
