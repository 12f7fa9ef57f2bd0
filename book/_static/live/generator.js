// The live one-step generator: every <div class="live-generator"> of a page becomes one. Its own content, a still picture
// with a caption, stays until there are pictures, and is what paper and readers without JavaScript get.
// Nothing large is fetched before the button is pressed. engine.js does the computing.
"use strict";

(() => {
  const { src, dataset } = document.currentScript;
  const home = new URL(".", src);
  const COLUMNS = 4;
  const COUNT = COLUMNS ** 2;
  const SIZE = 64;
  const SIGMA_MAX = 80;
  const STEPS = 18;
  const MAP = 7;
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // --- the engine, in a worker or here ------------------------------------------------------------

  /** { call(name, args, onStep), sentence }: sentence says what is missing, if anything. */
  async function startEngine() {
    const url = new URL(`engine.js?v=${dataset.version}`, home);
    try {
      return { call: await inWorker(url), sentence: "" };
    } catch {
      const engine = await import(url).catch(() => {
        throw new Error("The program could not be loaded: no connection, or this page was opened as a file.");
      });
      const call = (name, args, onStep) => engine[name](...args, onStep);
      return { call, sentence: "This browser blocks workers, so the page itself computes and may stutter meanwhile." };
    }
  }

  function inWorker(url) {
    return new Promise((resolve, reject) => {
      const worker = new Worker(url, { type: "module" });
      const waiting = new Map();
      let last = 0;
      const call = (name, args, onStep = () => {}) =>
        new Promise((done, failed) => {
          waiting.set(++last, { done, failed, onStep });
          worker.postMessage({ id: last, call: name, args });
        });
      const timer = setTimeout(() => (worker.terminate(), reject(new Error("no answer"))), 8000);
      worker.onerror = (event) => {
        clearTimeout(timer);
        reject(new Error("blocked"));
        for (const { failed } of waiting.values()) failed(new Error(`The computation stopped (${event.message}).`));
        waiting.clear();
      };
      worker.onmessage = ({ data }) => {
        if (data.ready) return clearTimeout(timer), resolve(call);
        const job = waiting.get(data.id);
        if (!job) return;
        if (data.progress || data.step) return job.onStep(...(data.progress ?? data.step));
        waiting.delete(data.id);
        if ("error" in data) job.failed(new Error(data.error));
        else job.done(data.result);
      };
    });
  }

  // One engine for the page, however many generators it has.
  let engine = null;
  let loaded = null;
  async function ready(onProgress) {
    loaded ??= (async () => {
      engine ??= await startEngine();
      await engine.call("load", [], onProgress);
    })();
    try {
      await loaded;
    } catch (error) {
      loaded = null; // so that the next press tries again
      throw error;
    }
  }

  // --- noise and pictures ----------------------------------------------------------------------

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

  /** Noisy pictures are shown scaled to the contrast of data. */
  const seen = (x, sigma) => x.map((value) => (sigma ? (value * 0.5) / Math.sqrt(sigma ** 2 + 0.25) : value));

  /** Digits in [−1, 1] in a square, one pixel of paper between them. */
  function draw(canvas, x) {
    const columns = Math.ceil(Math.sqrt(x.length / SIZE));
    canvas.width = canvas.height = 9 * columns - 1;
    const picture = new ImageData(canvas.width, canvas.width);
    x.forEach((value, i) => {
      const [digit, pixel] = [Math.floor(i / SIZE), i % SIZE];
      const row = Math.floor(digit / columns) * 9 + Math.floor(pixel / 8);
      const column = (digit % columns) * 9 + (pixel % 8);
      picture.data[4 * (row * canvas.width + column) + 3] = Math.round(127.5 * (Math.min(1, Math.max(-1, value)) + 1));
    });
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  const show = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);

  // --- one generator in the page ----------------------------------------------------------------

  const PANEL = `
    <button type="button">Generate ${COUNT} digits</button>
    <p class="live-status" role="status" aria-live="polite"></p>
    <div class="live-results" hidden>
      <div class="live-columns">
        <div><p class="live-title student">Student, 1 evaluation</p>
          <canvas class="live-ink live-student" role="img" aria-label="No digits yet"></canvas>
          <p class="live-clock live-student-clock"></p></div>
        <div><p class="live-title teacher">Teacher, 35 evaluations</p>
          <canvas class="live-ink live-teacher" role="img" aria-label="No digits yet"></canvas>
          <p class="live-clock live-teacher-clock"></p></div>
      </div>
      <div class="live-walk" hidden>
        <div class="live-columns">
          <div><p class="live-title">Between four noises</p>
            <div class="live-pad"><canvas class="live-ink live-map" aria-hidden="true"></canvas><span class="live-dot"></span></div>
            <label><span>left to right</span><input type="range" class="live-u" min="0" max="100" step="1" value="50"></label>
            <label><span>top to bottom</span><input type="range" class="live-v" min="0" max="100" step="1" value="50"></label></div>
          <div><p class="live-title student">The student’s digit there</p>
            <canvas class="live-ink live-digit" role="img" aria-label="No digit yet"></canvas>
            <p class="live-clock live-digit-clock"></p></div>
        </div>
        <p>Each corner of the square is one noise, each other point a mixture of the four. Drag the point, or use the sliders: every position is one evaluation.</p>
      </div>
    </div>`;

  class Generator {
    constructor(root) {
      this.root = root;
      this.panel = document.createElement("div");
      this.panel.className = "live-panel";
      this.panel.setAttribute("role", "group");
      this.panel.setAttribute("aria-label", "Generator of digits that runs in this page");
      this.panel.innerHTML = PANEL;
      root.prepend(this.panel);
      this.find = (name) => this.panel.querySelector(name);
      this.button = this.find("button");
      this.button.addEventListener("click", () => this.press());
      this.say(`Loads ${dataset.megabytes} MB, once.`);
      this.prepareWalk();
      root.live = this;
    }

    say(text) {
      this.find(".live-status").textContent = text;
    }

    /** The button: load if need be, then generate; whatever fails ends in a sentence and the recording. */
    async press() {
      if (this.busy) return;
      this.busy = true;
      this.button.setAttribute("aria-disabled", "true");
      try {
        await this.open();
        await this.generate(drawNoise(COUNT));
        await this.newCorners();
        this.button.textContent = `Generate ${COUNT} others`;
      } catch (error) {
        await this.replay(error.message);
      } finally {
        this.busy = false;
        this.button.removeAttribute("aria-disabled");
      }
    }

    async open() {
      if (typeof WebAssembly !== "object") {
        throw new Error("This browser has no WebAssembly, so the networks cannot run here.");
      }
      this.say("Loading …");
      let percent = -1;
      await ready((have, total) => {
        const now = Math.floor((10 * have) / total) * 10; // few steps, for those who listen
        if (now > percent) this.say(`Loading … ${(percent = now)} %`);
      });
    }

    /** The student's samples, then the teacher's, from the same noise. */
    async generate(noise) {
      this.reveal();
      this.say("The student samples, then the teacher.");
      const student = await engine.call("sampleStudent", [noise]);
      this.picture(".live-student", student.x, `${noise.length / SIZE} digits of the student`);
      this.find(".live-student-clock").textContent = show(student.ms);
      const clock = this.find(".live-teacher-clock");
      let painted = 0;
      const step = async (x, sigma, count, ms) => {
        clock.textContent = `${count} of ${2 * STEPS - 1} · ${show(ms)}`;
        if (!still.matches) draw(this.find(".live-teacher"), seen(x, sigma));
        // Where the page itself computes it must get to paint; a hidden tab has no frames to wait for.
        if (engine.sentence && performance.now() - painted > 30) {
          await new Promise((next) => (document.hidden ? next() : setTimeout(next)));
          painted = performance.now();
        }
      };
      const teacher = await engine.call("sampleTeacher", [noise, STEPS], step);
      this.picture(".live-teacher", teacher.x, `${noise.length / SIZE} digits of the teacher, from the same noise`);
      clock.textContent = `${teacher.evaluations} of ${2 * STEPS - 1} · ${show(teacher.ms)}`;
      const ratio = student.ms > 0 ? `, ${Math.round(teacher.ms / student.ms)} times as long` : "";
      const times = `the student in ${show(student.ms)}, the teacher in ${show(teacher.ms)}${ratio}`;
      this.say(`From the same noise: ${times}. ${engine.sentence}`);
      return { student, teacher };
    }

    reveal() {
      this.find(".live-results").hidden = false;
      this.root.classList.add("live-on");
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
      draw(this.find(".live-map"), (await engine.call("sampleStudent", [grid])).x);
      this.find(".live-walk").hidden = false;
      await this.move();
    }

    /** Draw the digit at the point; while one is being drawn only the last wish is kept. */
    async move() {
      const [u, v] = [this.find(".live-u").value / 100, this.find(".live-v").value / 100];
      // The centres of the map's outer digits are its corners.
      const place = (t) => `${100 * (4 / (9 * MAP - 1) + (t * 9 * (MAP - 1)) / (9 * MAP - 1))}%`;
      Object.assign(this.find(".live-dot").style, { left: place(u), top: place(v) });
      this.wish = [u, v];
      if (this.drawing || !this.corners) return;
      this.drawing = true;
      try {
        while (this.wish) {
          const [a, b] = this.wish;
          this.wish = null;
          const { x, ms } = await engine.call("sampleStudent", [mix(this.corners, a, b)]);
          this.picture(".live-digit", x, `The student’s digit at ${Math.round(100 * a)} % right, ${Math.round(100 * b)} % down`);
          this.find(".live-digit-clock").textContent = show(ms);
        }
      } catch (error) {
        this.say(error.message);
      } finally {
        this.drawing = false;
      }
    }

    // --- the recording ----------------------------------------------------------------------------

    /** Where the networks cannot run: a sentence, and what they did elsewhere. */
    async replay(sentence) {
      this.button.textContent = "Try again";
      const sheet = new Image();
      sheet.src = new URL("frames.png", home);
      try {
        await sheet.decode();
      } catch {
        return this.say(`${sentence} The still picture shows what they do.`);
      }
      this.reveal();
      this.find(".live-walk").hidden = true;
      this.say(`${sentence} What you see is a recording.`);
      const side = sheet.width;
      const frames = sheet.height / side;
      const put = (name, frame, label) => {
        const canvas = this.find(name);
        canvas.width = canvas.height = side;
        canvas.getContext("2d").drawImage(sheet, 0, -frame * side);
        canvas.setAttribute("aria-label", label);
      };
      put(".live-student", frames - 1, `${COUNT} digits of the student, recorded`);
      this.find(".live-student-clock").textContent = "recorded";
      for (let frame = still.matches ? frames - 2 : 0; frame < frames - 1; frame++) {
        put(".live-teacher", frame, `${COUNT} digits of the teacher, recorded`);
        const count = Math.min(2 * frame, 2 * STEPS - 1);
        this.find(".live-teacher-clock").textContent = `${count} of ${2 * STEPS - 1} · recorded`;
        if (frame < frames - 2) await new Promise((next) => setTimeout(next, 120));
      }
    }
  }

  for (const root of document.querySelectorAll("div.live-generator")) new Generator(root);
})();
