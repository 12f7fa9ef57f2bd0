// The live one-step generator: every <div class="live-generator"> of a page becomes one. Its own content, a still picture
// with a caption, is what paper and readers without JavaScript get. A recording of both networks plays once when it comes into
// view; nothing large is loaded before the button is pressed. networks.js and engine.js do the computing.
"use strict";

(() => {
  const { networks, still } = live;
  const { draw, show, seen } = networks;
  const COUNT = 16;
  const SIZE = 64;
  const SIGMA_MAX = 80;
  const STEPS = 18;
  const EVALUATIONS = 2 * STEPS - 1;
  const MAP = 7;

  // --- noise -------------------------------------------------------------------------------------

  /** Normal noise times σ, for so many digits. */
  function drawNoise(count) {
    const noise = new Float32Array(count * SIZE);
    for (let i = 0; i < noise.length; i += 2) {
      const radius = SIGMA_MAX * Math.sqrt(-2 * Math.log(1 - Math.random()));
      const angle = 2 * Math.PI * Math.random();
      noise[i] = radius * Math.cos(angle);
      noise[i + 1] = radius * Math.sin(angle);
    }
    return noise;
  }

  /** A point of the square between four noises. The squares of the weights sum to 1, so it is noise of the same size. */
  function mix(corners, u, v) {
    const [a, b] = [(u * Math.PI) / 2, (v * Math.PI) / 2];
    const weights = [
      Math.cos(a) * Math.cos(b),
      Math.sin(a) * Math.cos(b),
      Math.cos(a) * Math.sin(b),
      Math.sin(a) * Math.sin(b),
    ];
    return Float32Array.from({ length: SIZE }, (_, j) =>
      weights.reduce((sum, w, corner) => sum + w * corners[corner * SIZE + j], 0),
    );
  }

  // --- one generator in the page ----------------------------------------------------------------

  const PANEL = `
    <div class="live-columns live-race">
      <div><p class="live-title student">Student <span>1 evaluation</span></p>
        <canvas class="live-ink live-student" role="img" aria-label="No digits yet"></canvas>
        <p class="live-clock live-student-clock">&nbsp;</p></div>
      <div><p class="live-title teacher">Teacher <span>${EVALUATIONS} evaluations</span></p>
        <canvas class="live-ink live-teacher" role="img" aria-label="No digits yet"></canvas>
        <p class="live-clock live-teacher-clock">&nbsp;</p></div>
    </div>
    <button type="button">Generate ${COUNT} digits here</button>
    <p class="live-status" role="status" aria-live="polite"></p>
    <details class="live-between">
      <summary>Drag a point between four noises</summary>
      <div class="live-columns">
        <div><p class="live-title">Noise</p>
          <div class="live-pad"><canvas class="live-ink live-map" aria-hidden="true"></canvas><span class="live-dot"></span></div>
          <p class="live-clock">&nbsp;</p></div>
        <div><p class="live-title student">Its digit</p>
          <canvas class="live-ink live-digit" role="img" aria-label="No digit yet"></canvas>
          <p class="live-clock live-digit-clock">&nbsp;</p></div>
      </div>
      <label><span>left to right</span><input type="range" class="live-u" min="0" max="100" step="1" value="50"></label>
      <label><span>top to bottom</span><input type="range" class="live-v" min="0" max="100" step="1" value="50"></label>
      <p>Each corner of the square is one noise, each other point a mixture of the four. Every position is one evaluation.</p>
    </details>`;

  class Generator {
    constructor(root) {
      this.root = root;
      this.panel = document.createElement("div");
      this.panel.className = "live-panel";
      this.panel.setAttribute("role", "group");
      this.panel.setAttribute("aria-label", "Digit generator that runs on this page");
      this.panel.innerHTML = PANEL;
      root.prepend(this.panel);
      this.find = (name) => this.panel.querySelector(name);
      this.button = this.find("button");
      this.button.addEventListener("click", () => this.press());
      this.find("details").addEventListener("toggle", () => this.find("details").open && !this.corners && this.press(true));
      this.say(`The button loads ${networks.megabytes} MB, once. Both networks run on this page, and nothing is sent.`);
      this.prepareWalk();
      root.live = this;
      let played = false;
      live.onView(this.find(".live-race"), (shown) => {
        if (!shown || played || this.started) return;
        played = true;
        this.record().catch(() => delete root.dataset.live); // then the still picture is there
      });
    }

    say(text) {
      this.find(".live-status").textContent = text;
    }

    /** The button: load if need be, then generate; whatever fails ends in a sentence and the recording. */
    async press(onlyWalk = false) {
      if (this.busy) return;
      this.busy = this.started = true;
      this.button.setAttribute("aria-disabled", "true");
      try {
        await networks.load((text) => this.say(text));
        this.corners = null;
        if (!onlyWalk) await this.generate(drawNoise(COUNT));
        if (this.find("details").open) await this.newCorners();
        if (onlyWalk) this.say("Drag the point, or use the sliders.");
        this.button.textContent = `Generate ${COUNT} others`;
      } catch (error) {
        await this.replay(error.message);
      } finally {
        this.busy = false;
        this.button.removeAttribute("aria-disabled");
      }
    }

    /** The student's samples, then the teacher's, from the same noise. */
    async generate(noise) {
      this.say("The student samples, then the teacher.");
      const [clock, studentClock] = [this.find(".live-teacher-clock"), this.find(".live-student-clock")];
      for (const name of [".live-student", ".live-teacher"]) this.picture(name, seen(noise, SIGMA_MAX), "Noise");
      clock.textContent = `0 of ${EVALUATIONS}`;
      // One evaluation is short, so it is made five times, and the median counts.
      const student = await networks.call("sampleStudent", [noise, SIGMA_MAX, 5]);
      this.picture(".live-student", student.x, `${noise.length / SIZE} digits of the student`);
      studentClock.textContent = `1 of 1 · ${show(student.ms)}`;
      const step = async (x, sigma, count, ms) => {
        clock.textContent = `${count} of ${EVALUATIONS} · ${show(ms)}`;
        if (!still.matches) draw(this.find(".live-teacher"), seen(x, sigma));
        await networks.shared();
      };
      const teacher = await networks.call("sampleTeacher", [noise, STEPS, SIGMA_MAX], step);
      this.picture(".live-teacher", teacher.x, `${noise.length / SIZE} digits of the teacher, from the same noise`);
      clock.textContent = `${teacher.evaluations} of ${EVALUATIONS} · ${show(teacher.ms)}`;
      const ratio = student.ms > 0 ? `, ${Math.round(teacher.ms / student.ms)} times as long` : "";
      const times = `the student in ${show(student.ms)}, the teacher in ${show(teacher.ms)}${ratio}`;
      this.say(`From the same noise: ${times}. ${networks.sentence}`);
      return { student, teacher };
    }

    picture(name, x, label) {
      const canvas = this.find(name);
      draw(canvas, x);
      canvas.setAttribute("aria-label", label);
    }

    // --- the square between four noises -----------------------------------------------------------

    prepareWalk() {
      const [u, v, pad] = [this.find(".live-u"), this.find(".live-v"), this.find(".live-pad")];
      for (const slider of [u, v]) slider.addEventListener("input", () => this.move());
      const follow = (event) => {
        const box = pad.getBoundingClientRect();
        u.value = (100 * (event.clientX - box.left)) / box.width;
        v.value = (100 * (event.clientY - box.top)) / box.height;
        this.move();
      };
      pad.addEventListener("pointerdown", (event) => {
        pad.setPointerCapture(event.pointerId);
        follow(event);
      });
      pad.addEventListener("pointermove", (event) => pad.hasPointerCapture(event.pointerId) && follow(event));
    }

    async newCorners() {
      this.corners = drawNoise(4);
      const grid = new Float32Array(MAP ** 2 * SIZE);
      for (let i = 0; i < MAP ** 2; i++) {
        grid.set(mix(this.corners, (i % MAP) / (MAP - 1), Math.floor(i / MAP) / (MAP - 1)), i * SIZE);
      }
      draw(this.find(".live-map"), (await networks.call("sampleStudent", [grid])).x);
      await this.move();
    }

    /** Draw the digit at the point; while one is being drawn only the last wish is kept. */
    async move() {
      const [u, v] = [this.find(".live-u").value / 100, this.find(".live-v").value / 100];
      // The centers of the map's outer digits are its corners.
      const place = (t) => `${100 * (4 / (9 * MAP - 1) + (t * 9 * (MAP - 1)) / (9 * MAP - 1))}%`;
      Object.assign(this.find(".live-dot").style, { left: place(u), top: place(v) });
      this.wish = [u, v];
      if (this.drawing || !this.corners) return;
      this.drawing = true;
      try {
        while (this.wish) {
          const [a, b] = this.wish;
          this.wish = null;
          const { x, ms } = await networks.call("sampleStudent", [mix(this.corners, a, b)]);
          this.picture(".live-digit", x, `The student’s digit, ${Math.round(100 * a)} % across and ${Math.round(100 * b)} % down`);
          this.find(".live-digit-clock").textContent = show(ms);
        }
      } catch (error) {
        this.say(error.message);
      } finally {
        this.drawing = false;
      }
    }

    // --- the recording ----------------------------------------------------------------------------

    /** What both networks did elsewhere: noise, the student's jump, the teacher's walk. Stops when the button is pressed. */
    async record() {
      const sheet = new Image();
      sheet.src = new URL("frames.png", networks.home);
      await sheet.decode();
      const side = sheet.width;
      const frames = sheet.height / side - 1; // of the teacher; the student's samples come last
      const put = (name, frame, label) => {
        const canvas = this.find(name);
        canvas.width = canvas.height = side;
        canvas.getContext("2d").drawImage(sheet, 0, -frame * side);
        canvas.setAttribute("aria-label", label);
      };
      const wait = (ms) => new Promise((next) => setTimeout(next, still.matches ? 0 : ms));
      const [mine, clock, studentClock] = [{}, this.find(".live-teacher-clock"), this.find(".live-student-clock")];
      this.recording = mine;
      const replaced = () => this.recording !== mine || (this.busy && !this.failed);
      if (replaced()) return;
      if (!still.matches) {
        for (const name of [".live-student", ".live-teacher"]) put(name, 0, "Noise, recorded");
        studentClock.textContent = clock.textContent = "noise";
        await wait(700);
        if (replaced()) return;
      }
      put(".live-student", frames, `${COUNT} digits of the student, recorded`);
      studentClock.textContent = "1 of 1 · recorded";
      for (let frame = still.matches ? frames - 1 : 0; frame < frames; frame++) {
        put(".live-teacher", frame, `${COUNT} digits of the teacher, recorded`);
        clock.textContent = `${Math.min(2 * frame, EVALUATIONS)} of ${EVALUATIONS} · recorded`;
        if (frame < frames - 1) await wait(150);
        if (replaced()) return;
      }
    }

    /** Where the networks cannot run: a sentence, and the recording. */
    async replay(sentence) {
      this.button.textContent = "Try again";
      this.failed = true;
      this.say(`${sentence} What you see is a recording.`);
      try {
        await this.record();
      } catch {
        delete this.root.dataset.live;
        this.say(`${sentence} The still picture shows what they do.`);
      } finally {
        this.failed = false;
      }
    }
  }

  live.part("generator", (root) => new Generator(root));
})();
