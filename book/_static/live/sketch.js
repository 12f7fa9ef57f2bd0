// Draw a digit, and see what the student makes of it: x = f(y + σz, σ), eight noises z at once. Every change of the drawing or of σ
// is one evaluation; when the hand rests, the teacher walks from the same noisy points. Needs networks.js.
"use strict";

(() => {
  const { element, networks } = live;
  const SIDE = 64; // the drawing is kept in 64 × 64 dots of ink, and the model sees means over 8 × 8 of them
  const COUNT = 8;
  const STEPS = 18;
  const EVALUATIONS = 2 * STEPS - 1;
  const REST = 700; // milliseconds without a change until the teacher begins
  const LEVELS = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
  const DIGITS = {
    0: "...##... ..#..#.. .#....#. .#....#. .#....#. .#....#. ..#..#.. ...##...",
    3: "..###... .....#.. .....#.. ..###... .....#.. .....#.. .....#.. ..###...",
    4: "....#... ...#.... ..#..... ..#..#.. .#...#.. .######. .....#.. .....#..",
    7: ".#####.. .....#.. ....#... ..#####. ....#... ...#.... ...#.... ...#....",
  };

  /** The eight noises of a seed. */
  function noises(seed) {
    const { normal } = live.source(seed);
    return Float32Array.from({ length: COUNT * 64 }, normal);
  }

  /** What the model is given: the drawing y, with noise of level σ on each of its copies. */
  function noisy(y, z, sigma) {
    return z.map((value, i) => y[i % 64] + sigma * value);
  }

  class Sketch {
    constructor(root) {
      const chosen = { seed: [0, 9999], sigma: [LEVELS[0], LEVELS.at(-1), false] };
      this.settings = live.settings("sketch", { seed: 3, sigma: 0.5 }, chosen);
      this.ink = element("canvas", { width: SIDE, height: SIDE }).getContext("2d", { willReadFrequently: true });
      this.noise = noises(this.settings.seed);
      this.cursor = null;
      this.build(root);
      this.preset(7, false);
      root.live = this;
    }

    build(root) {
      const button = (text, act, main) =>
        element("button", { type: "button", class: main ? "live-main" : null, onclick: act }, text);
      const level = LEVELS.findIndex((value) => value >= this.settings.sigma);
      this.pad = element("canvas", {
        class: "live-ink sketch-pad",
        tabindex: "0",
        role: "application",
        "aria-label": "Your drawing, 8 by 8 cells: draw with the pointer, or move with the arrow keys and press space",
      });
      this.slider = element("input", {
        type: "range",
        min: "0",
        max: LEVELS.length - 1,
        step: "1",
        value: level < 0 ? LEVELS.length - 1 : level,
        oninput: () => this.turn(),
      });
      this.dial = element("output", {}, "");
      const small = (text, name) => {
        const canvas = element("canvas", { class: `live-ink ${name}`, role: "img", "aria-label": text });
        return [canvas, element("div", { class: "sketch-small" }, canvas, element("span", {}, text))];
      };
      const [sight, sightBox] = small("seen as 8 × 8", "sketch-sight");
      const [dust, dustBox] = small("with noise", "sketch-dust");
      Object.assign(this, { sight, dust });
      const strip = (role, text) => {
        const canvas = element("canvas", { class: "live-ink sketch-strip", role: "img", "aria-label": `${text}: none yet` });
        const clock = element("span", { class: "sketch-clock" });
        canvas.width = 9 * COUNT - 1;
        canvas.height = 8;
        const title = element("p", { class: "sketch-title" }, element("strong", { class: role }, text), " ", clock);
        return { canvas, clock, box: element("div", {}, title, canvas) };
      };
      this.student = strip("student", "Student, 1 evaluation");
      this.teacher = strip("teacher", `Teacher, ${EVALUATIONS} evaluations`);
      this.status = element("p", { class: "live-say", role: "status", "aria-live": "polite" });
      const presets = Object.keys(DIGITS).map((digit) => button(digit, () => this.preset(digit)));
      for (const one of presets) one.setAttribute("aria-label", `Draw a ${one.textContent}`);
      root.prepend(
        element(
          "div",
          { class: "live-part sketch", role: "group", "aria-label": "Draw a digit" },
          element(
            "div",
            { class: "sketch-top" },
            this.pad,
            element(
              "div",
              {},
              element("div", { class: "live-row" }, button("Clear", () => this.clear()), ...presets),
              element("label", {}, element("span", {}, "noise ", this.dial), this.slider),
              element("div", { class: "sketch-pair" }, sightBox, dustBox),
              element("div", { class: "live-row" }, button("Other noise", () => this.reseed())),
            ),
          ),
          this.student.box,
          this.teacher.box,
          this.status,
        ),
      );
      this.listen();
      this.say(`Draw, or pick a digit. Your first stroke loads both networks, ${networks.megabytes} MB, once.`);
      this.turn(false);
    }

    say(text) {
      this.status.textContent = text;
    }

    // --- the hand -----------------------------------------------------------------------------------

    listen() {
      const { pad, ink } = this;
      Object.assign(ink, { lineWidth: 8, lineCap: "round", lineJoin: "round" });
      const at = (event) => {
        const box = pad.getBoundingClientRect();
        return [(SIDE * (event.clientX - box.left)) / box.width, (SIDE * (event.clientY - box.top)) / box.height];
      };
      let last = null;
      const line = (event) => {
        const here = at(event);
        ink.beginPath();
        ink.moveTo(...(last ?? here));
        ink.lineTo(...here);
        ink.stroke();
        last = here;
      };
      pad.addEventListener("pointerdown", (event) => {
        pad.setPointerCapture(event.pointerId);
        if (!this.touched) this.clear(false); // what stood there was only an example
        last = null;
        this.cursor = null;
        line(event);
        this.change();
      });
      pad.addEventListener("pointermove", (event) => {
        if (!pad.hasPointerCapture(event.pointerId)) return;
        for (const one of event.getCoalescedEvents?.() ?? []) line(one);
        line(event);
        this.change();
      });
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      pad.addEventListener("keydown", (event) => {
        const space = event.key === " ";
        if (!(space || event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        const [dx, dy] = space || !this.cursor ? [0, 0] : moves[event.key];
        const [x, y] = this.cursor ?? [3, 3];
        this.cursor = [Math.min(7, Math.max(0, x + dx)), Math.min(7, Math.max(0, y + dy))];
        if (space) this.toggle(...this.cursor);
        else this.paint();
        const word = this.drawing()[8 * this.cursor[1] + this.cursor[0]] > 0 ? "ink" : "paper";
        this.say(`Row ${this.cursor[1] + 1}, column ${this.cursor[0] + 1}: ${word}.`);
      });
      pad.addEventListener("blur", () => ((this.cursor = null), this.paint()));
    }

    toggle(x, y) {
      const full = this.drawing()[8 * y + x] > 0;
      this.ink[full ? "clearRect" : "fillRect"](8 * x, 8 * y, 8, 8);
      this.change();
    }

    clear(answer = true) {
      this.ink.clearRect(0, 0, SIDE, SIDE);
      this.paint();
      if (answer) this.change();
      else this.touched = true;
    }

    preset(digit, answer = true) {
      this.ink.clearRect(0, 0, SIDE, SIDE);
      [...DIGITS[digit].replaceAll(" ", "")].forEach((cell, i) => {
        if (cell === "#") this.ink.fillRect(8 * (i % 8), 8 * Math.floor(i / 8), 8, 8);
      });
      this.paint();
      if (answer) this.change();
    }

    reseed() {
      this.settings.set({ seed: (this.settings.seed + 1) % 10000 });
      this.noise = noises(this.settings.seed);
      this.change();
    }

    turn(answer = true) {
      const sigma = LEVELS[this.slider.value];
      this.settings.set({ sigma });
      this.dial.textContent = `σ = ${sigma}`;
      this.slider.setAttribute("aria-valuetext", `σ = ${sigma}`);
      if (answer) this.change();
    }

    /** The drawing in [−1, 1], as the data are: the mean ink of each cell. */
    drawing() {
      const { data } = this.ink.getImageData(0, 0, SIDE, SIDE);
      const cells = new Float32Array(64);
      for (let i = 0; i < SIDE * SIDE; i++) cells[8 * Math.floor(i / (8 * SIDE)) + Math.floor((i % SIDE) / 8)] += data[4 * i + 3];
      return cells.map((sum) => (2 * sum) / (64 * 255) - 1);
    }

    paint() {
      const [pad, pen] = [this.pad, this.pad.getContext("2d")];
      const scale = 6;
      pad.width = pad.height = scale * SIDE;
      pen.imageSmoothingEnabled = false;
      pen.drawImage(this.ink.canvas, 0, 0, pad.width, pad.height);
      pen.fillStyle = "rgb(0 0 0 / 0.18)";
      for (let i = 1; i < 8; i++) {
        pen.fillRect(8 * scale * i, 0, 1, pad.height);
        pen.fillRect(0, 8 * scale * i, pad.width, 1);
      }
      if (this.cursor) {
        const [x, y] = this.cursor.map((cell) => 8 * scale * cell);
        for (const [style, width] of [["#fff", 8], ["#000", 4]]) {
          Object.assign(pen, { strokeStyle: style, lineWidth: width });
          pen.strokeRect(x + 3, y + 3, 8 * scale - 6, 8 * scale - 6);
        }
      }
      const y = this.drawing();
      networks.draw(this.sight, y);
      const x = noisy(y, this.noise.subarray(0, 64), this.settings.sigma);
      networks.draw(this.dust, networks.seen(x, this.settings.sigma));
    }

    // --- the answers --------------------------------------------------------------------------------

    /** The drawing, σ or the noise is another: answer, and let the teacher walk when the hand rests. */
    change() {
      this.touched = true;
      this.paint();
      clearTimeout(this.rest);
      this.walk?.stop();
      this.walk = null;
      this.walked = false;
      this.teacher.clock.textContent = "";
      this.teacher.canvas.style.opacity = 0.3; // of another drawing
      this.wish = true;
      return (this.answering ??= this.answer().finally(() => (this.answering = null)));
    }

    /** One evaluation for the newest wish; older ones that were not begun are dropped. */
    async answer() {
      try {
        await networks.load((text) => this.say(text));
        while (this.wish) {
          this.wish = false;
          const { sigma } = this.settings;
          const x = noisy(this.drawing(), this.noise, sigma);
          const { x: found, ms } = await networks.call("sampleStudent", [x, sigma]);
          networks.draw(this.student.canvas, found, COUNT);
          this.student.canvas.setAttribute("aria-label", `Eight digits that the student made from the drawing, at σ = ${sigma}`);
          this.student.clock.textContent = networks.show(ms);
          this.given = { x, sigma, ms, student: found };
        }
        clearTimeout(this.rest);
        this.rest = setTimeout(() => this.follow(), REST);
      } catch (error) {
        this.say(error.message);
      }
    }

    /** The teacher's walk from the points that the student has just answered. */
    async follow() {
      const given = this.given;
      const step = async (x, sigma, count, ms) => {
        if (this.given !== given || this.wish) return false;
        this.teacher.clock.textContent = `${count} of ${EVALUATIONS} · ${networks.show(ms)}`;
        if (!live.still.matches) networks.draw(this.teacher.canvas, networks.seen(x, sigma), COUNT);
        await networks.shared();
        return true;
      };
      try {
        // The clock of a single evaluation is rough: five of them, on the same points as the teacher's, and the median counts.
        const { ms } = await networks.call("sampleStudent", [given.x, given.sigma, 5]);
        if (this.given !== given || this.wish) return;
        this.student.clock.textContent = networks.show((given.ms = ms));
        this.teacher.canvas.style.opacity = 1;
        this.walk = networks.call("sampleTeacher", [given.x, STEPS, given.sigma], step);
        const found = await this.walk;
        if (!found || this.given !== given || this.wish) return;
        given.teacher = found.x;
        networks.draw(this.teacher.canvas, found.x, COUNT);
        this.teacher.canvas.setAttribute("aria-label", "Eight digits of the teacher, from the same noisy points");
        this.teacher.clock.textContent = networks.show(found.ms);
        const ratio = given.ms > 0 ? `, ${Math.round(found.ms / given.ms)} times as long` : "";
        const times = `the student in ${networks.show(given.ms)}, the teacher in ${networks.show(found.ms)}${ratio}`;
        this.say(`Eight answers at σ = ${given.sigma}: ${times}. ${networks.sentence}`);
        this.walked = true;
      } catch (error) {
        this.say(error.message);
      }
    }
  }

  live.part("sketch", (root) => new Sketch(root));
})();
