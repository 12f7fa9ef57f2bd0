(figure) => {
  if (!figure || figure.dataset.ready) return;
  figure.dataset.ready = "yes";
  const settings = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const { sigmas, sigmaData: sd, colors, extent } = settings;
  const canvas = figure.querySelector("canvas");
  const [text, toggle] = [figure.querySelector("output"), figure.querySelector("input")];

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

  const cloud = unpack(settings.data);
  let z = settings.start;
  const draw = () => {
    const size = canvas.clientWidth || 420, ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.height = size * ratio;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    // Each point is shown divided by sqrt(sigma^2 + sigma_data^2), so that all levels fit into one picture.
    const at = (x, sigma) => x.map((v, i) => {
      const u = v / Math.hypot(sigma, sd) / extent;
      return ((i ? -u : u) + 1) * size / 2;
    });
    const dot = ([a, b], radius, color, hollow) => {
      pen.beginPath();
      pen.arc(a, b, radius, 0, 7);
      pen[hollow ? "strokeStyle" : "fillStyle"] = color;
      pen.lineWidth = 2;
      hollow ? pen.stroke() : pen.fill();
    };
    pen.globalAlpha = 0.5;
    for (let i = 0; i < cloud.length; i += 2) dot(at([cloud[i], cloud[i + 1]], 0), 1.3, colors.data);
    pen.globalAlpha = 1;
    const path = [z.map((v) => v * sigmas[0])];
    for (let i = 0; i + 1 < sigmas.length; i++) path.push(heun(path[i], sigmas[i], sigmas[i + 1]));
    pen.strokeStyle = colors.teacher;
    pen.lineWidth = 1.6;
    pen.beginPath();
    path.forEach((x, i) => pen[i ? "lineTo" : "moveTo"](...at(x, sigmas[i])));
    pen.stroke();
    path.forEach((x, i) => dot(at(x, sigmas[i]), 2.2, colors.teacher));
    const end = student(path[0], sigmas[0]);
    if (toggle.checked) path.forEach((x, i) => i && dot(at(student(x, sigmas[i]), 0), 3, colors.student, true));
    dot(at(end, 0), 5.5, colors.student);
    dot(at(path[0], sigmas[0]), 8, colors.ink, true);
    const last = path[path.length - 1];
    const say = (x) => `(${x.map((v) => v.toFixed(2)).join(", ")})`;
    text.textContent = `Teacher ${say(last)} after ${2 * (sigmas.length - 1)} evaluations, student ${say(end)} after one, ` +
      `${Math.hypot(last[0] - end[0], last[1] - end[1]).toFixed(2)} apart.`;
    figure.dataset.result = JSON.stringify({ z, teacher: last, student: end });
  };
  const move = (x, y) => {
    const limit = extent * 0.98;
    z = [x, y].map((v) => Math.max(-limit, Math.min(limit, v)));
    draw();
  };
  const follow = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    move(((event.clientX - box.left) / box.width * 2 - 1) * extent, (1 - (event.clientY - box.top) / box.height * 2) * extent);
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture?.(event.pointerId); canvas.focus(); follow(event); });
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const size = event.shiftKey ? 0.25 : 0.05;
    move(z[0] + step[0] * size, z[1] + step[1] * size);
  });
  toggle.addEventListener("change", draw);
  window.addEventListener("resize", draw);
  figure.querySelector("img").hidden = true;
  figure.querySelector(".cd-live").hidden = false;
  draw();
}
