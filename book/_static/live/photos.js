// Photographs by class: every <div class="live-photos"> of a page becomes a choice of class and two sheets from the same noise, the
// student's, which is there after one evaluation, and the teacher's. Its own content, a still picture, is seen until the first
// press, on paper, and wherever the networks cannot run. A book without these networks does not load this file.
"use strict";

(() => {
  const { element, networks, still } = live;
  const SIDE = 32;
  const PIXELS = SIDE * SIDE;
  const COUNT = 8; // pictures of one class
  const SIGMA_MAX = 80;
  const STEPS = 18;
  const WALK = 2 * STEPS - 1; // denoisers on the teacher's way
  const EACH = "each";

  /** Normal noise times σ, for so many pictures; those of a seed are the same for every class. */
  function drawNoise(seed, count) {
    const { normal } = live.source(seed);
    return Float32Array.from({ length: count * 3 * PIXELS }, () => SIGMA_MAX * normal());
  }

  /** One picture in [−1, 1], a channel after the other, on a canvas. */
  function paint(canvas, x) {
    const picture = new ImageData(SIDE, SIDE);
    for (let i = 0; i < PIXELS; i++) {
      for (let c = 0; c < 3; c++) picture.data[4 * i + c] = 127.5 * (x[c * PIXELS + i] + 1); // clamped and rounded there
      picture.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  class Photos {
    constructor(root, { classes, megabytes, guidance }) {
      this.root = root;
      this.classes = classes;
      this.each = guidance ? 2 : 1; // a guided denoiser asks its network with the class and without it
      this.evaluations = this.each * WALK;
      const choices = { class: [EACH, ...classes], seed: [0, 9999] };
      this.settings = live.settings("photos", { class: EACH, seed: 0 }, choices);
      this.build();
      this.name();
      const loads = `The button loads ${megabytes.student} MB, once, then ${megabytes.teacher} MB for the teacher.`;
      this.say(`${loads} The teacher takes about ten seconds to a minute. Both run on this page, and nothing is sent.`);
      root.live = this;
    }

    build() {
      const button = (text, act, name) => element("button", { type: "button", class: name, onclick: act }, text);
      this.choice = element("select", { onchange: () => (this.settings.set({ class: this.choice.value }), this.name()) });
      for (const name of [EACH, ...this.classes]) {
        this.choice.append(element("option", { value: name }, name === EACH ? "one of each" : name));
      }
      this.choice.value = this.settings.class;
      this.main = button("", () => (this.work ? this.stop() : this.draw()), "live-main photos-draw");
      const other = button("Other noise", () => this.reseed(), "photos-other");
      const sheet = (role, title, evaluations) => {
        const pictures = element("div", { class: "photos-sheet", role: "img", "aria-label": `${title}: no pictures yet` });
        const clock = element("p", { class: "photos-clock" }, "\u00a0");
        const head = element("p", { class: "photos-title" }, element("strong", { class: role }, title), " ");
        head.append(element("span", {}, evaluations));
        return { title, pictures, clock, box: element("div", { class: `photos-${role}` }, head, pictures, clock) };
      };
      this.student = sheet("student", "Student", "1 evaluation");
      this.teacher = sheet("teacher", "Teacher", `${this.evaluations} evaluations${this.each > 1 ? ", guided" : ""}`);
      this.status = element("p", { class: "live-say", role: "status", "aria-live": "polite" });
      this.race = element("div", { class: "photos-race", hidden: true }, this.student.box, this.teacher.box);
      const label = element("label", {}, element("span", {}, "class"), this.choice);
      const frame = { class: "live-part photos", role: "group", "aria-label": "Photographs by class, drawn on this page" };
      this.root.prepend(
        element("div", frame, element("div", { class: "live-row" }, label, this.main, other), this.status, this.race),
      );
    }

    say(text) {
      this.status.textContent = text;
    }

    /** What the button does next. */
    name() {
      if (!this.work) this.main.textContent = `Draw ${this.labels().length} here`;
    }

    labels() {
      const { classes, settings } = this;
      return settings.class === EACH ? [...classes.keys()] : Array(COUNT).fill(classes.indexOf(settings.class));
    }

    reseed() {
      this.settings.set({ seed: (this.settings.seed + 1) % 10000 });
      return this.draw();
    }

    /** End what is under way: the walk after its present evaluation, and whatever waits for it. */
    stop() {
      this.work = null;
      this.walk?.stop();
      this.say("Stopped.");
      this.name();
    }

    /** The student's pictures, then the teacher's, from the same noise; whatever fails ends in a sentence. */
    async draw(labels = this.labels(), noise = drawNoise(this.settings.seed, labels.length)) {
      this.walk?.stop();
      const work = (this.work = {});
      const over = () => this.work !== work;
      const of = { set: "photos", labels };
      this.main.textContent = "Stop";
      try {
        await networks.load((text) => over() || this.say(text), "photos", ["student"]);
        if (over()) return null;
        this.say("The student is drawing.");
        this.lay(labels);
        for (const sheet of [this.student, this.teacher]) this.show(sheet, networks.seen(noise, SIGMA_MAX), "noise");
        this.teacher.clock.textContent = `0 of ${this.evaluations}`;
        const student = await networks.call("sampleStudent", [noise, SIGMA_MAX, 1], undefined, of);
        if (over()) return null;
        this.show(this.student, student.x);
        this.student.clock.textContent = `1 of 1 · ${networks.show(student.ms)}`;
        const drawn = `The student has drawn ${labels.length} pictures.`;
        await networks.load((text) => over() || this.say(`${drawn} The teacher: ${text}`), "photos", ["teacher"]);
        if (over()) return null;
        this.say(`${drawn} The teacher is on its way.`);
        // The first evaluation of so many pictures is slower than any after it: the clock takes the median of three more.
        student.ms = (await networks.call("sampleStudent", [noise, SIGMA_MAX, 3], undefined, of)).ms;
        if (over()) return null;
        this.student.clock.textContent = `1 of 1 · ${networks.show(student.ms)}`;
        const step = async (x, sigma, count, ms) => {
          if (over()) return false;
          this.teacher.clock.textContent = `${this.each * count} of ${this.evaluations} · ${networks.show(ms)}`;
          if (!still.matches) this.show(this.teacher, networks.seen(x, sigma), "on the way");
          await networks.shared();
          return true;
        };
        this.walk = networks.call("sampleTeacher", [noise, STEPS, SIGMA_MAX], step, of);
        const teacher = await this.walk;
        if (over()) return null;
        this.show(this.teacher, teacher.x);
        const ratio = student.ms > 0 ? `, ${Math.round(teacher.ms / student.ms)} times as long` : "";
        const times = `the student in ${networks.show(student.ms)}, the teacher in ${networks.show(teacher.ms)}${ratio}`;
        this.say(`From the same noise: ${times}. ${networks.sentence}`);
        this.work = null;
        this.name();
        return { student, teacher };
      } catch (error) {
        if (!over()) this.fail(error.message);
        return null;
      }
    }

    fail(sentence) {
      this.work = null;
      this.main.textContent = "Try again";
      this.say(`${sentence} ${this.race.hidden ? "The still picture shows what they do." : ""}`);
    }

    // --- the sheets ---------------------------------------------------------------------------------

    /** A place for each picture on both sheets, in the place of the still picture; named where each is of another class. */
    lay(labels) {
      const names = labels.map((label) => this.classes[label]);
      this.names = new Set(names).size > 1 ? names.join(", ") : names[0];
      for (const { pictures, clock } of [this.student, this.teacher]) {
        const one = (name) => {
          const canvas = element("canvas", { width: SIDE, height: SIDE });
          return element("span", {}, canvas, ...(new Set(names).size > 1 ? [name] : []));
        };
        pictures.replaceChildren(...names.map(one));
        pictures.style.setProperty("--across", labels.length % 5 ? 4 : 5);
        clock.textContent = "\u00a0";
      }
      this.race.hidden = false;
      this.root.dataset.drawn = "yes";
    }

    /** Pictures on a sheet, as they are there already; of what, if not of the classes. */
    show({ title, pictures }, x, what = this.names) {
      const each = 3 * PIXELS;
      [...pictures.querySelectorAll("canvas")].forEach((canvas, i) => paint(canvas, x.subarray(i * each, (i + 1) * each)));
      pictures.setAttribute("aria-label", `${title}: ${pictures.children.length} pictures, ${what}`);
    }
  }

  const { photos } = networks.sets;
  if (photos) live.part("photos", (root) => new Photos(root, photos));
})();
