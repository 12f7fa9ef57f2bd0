// Teachers and students in the page, for the live parts that use them: live.networks. Needs common.js, and engine.js for the
// computing. Nothing large is loaded before load() is called: over HTTP it is fetched; a page from disk loads disk.js, which holds
// the same bytes as text, and for other sets of networks than the digits' disk-NAME.js.
"use strict";

live.networks ??= (() => {
  const { src, dataset } = document.currentScript;
  const home = new URL(".", src);
  const fromDisk = location.protocol === "file:";
  const SIZE = 64;
  const DIGITS = { set: "digits" };

  // --- the engine, in a worker or here ------------------------------------------------------------

  const script = (name) =>
    new Promise((done, failed) => {
      const url = new URL(`${name}?v=${dataset.version}`, home);
      const tag = live.element("script", { src: url, onload: done, onerror: () => failed(new Error(name)) });
      document.head.append(tag);
    });

  // What else the book has beside digits, by name: { photos: { classes, guidance, megabytes: { student, teacher } } }.
  const sets = JSON.parse(dataset.sets ?? "{}");
  const found = { call: null, sentence: "", home, megabytes: dataset.megabytes, sets, load, draw, show, seen, shared };

  async function startEngine() {
    try {
      await script("engine.js");
    } catch {
      throw new Error("The program could not be loaded: no connection.");
    }
    try {
      found.call = await inWorker();
    } catch {
      const engine = window.liveEngine(home, dataset.version);
      found.sentence = "This browser blocks workers, so the page itself does the computing and may stutter.";
      found.call = (name, args, onStep, of = DIGITS) => Object.assign(engine[name](of, ...args, onStep), { stop: () => {} });
    }
  }

  /**
   * call(name, args, onStep, of): a promise of what the engine answers, with stop() for a walk that nobody waits for any more. `of`
   * says of which networks, and with which labels: { set: "photos", labels }.
   */
  function inWorker() {
    return new Promise((resolve, reject) => {
      const source = `(${window.liveEngine})(${JSON.stringify(home)}, ${JSON.stringify(dataset.version)})`;
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      const waiting = new Map();
      let last = 0;
      const call = (name, args, onStep = () => {}, of = DIGITS) => {
        const id = ++last;
        const answer = new Promise((done, failed) => waiting.set(id, { done, failed, onStep }));
        worker.postMessage({ id, call: name, of, args });
        return Object.assign(answer, { stop: () => waiting.has(id) && worker.postMessage({ stop: id }) });
      };
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

  // One engine for the page, however many parts use it. Each load is made once, one after the other: the first brings the runtime.
  const loads = new Map(); // by set and roles: { done, listeners }
  let queue = Promise.resolve();
  let running = false;

  /** Load what is not there yet of a set's networks; say("Loading … 40 %") tells how far it is. */
  async function load(say, set = "digits", roles = ["student", "teacher"]) {
    if (typeof WebAssembly !== "object") {
      throw new Error("This browser has no WebAssembly, so the networks can't run here.");
    }
    const key = [set, ...roles].join();
    const one = loads.get(key) ?? { done: null, listeners: new Set() };
    loads.set(key, one);
    let percent = -1;
    const progress = (have, total) => {
      const now = Math.floor((10 * have) / total) * 10; // few steps, for those who listen
      if (now > percent) say(`Loading … ${(percent = now)} %`);
    };
    say("Loading …");
    one.listeners.add(progress);
    const tell = (...args) => one.listeners.forEach((listener) => listener(...args));
    one.done ??= queue = queue.catch(() => {}).then(() => loadNow(set, roles, tell));
    try {
      await one.done;
    } catch (error) {
      one.done = null; // so that the next press tries again
      throw error;
    } finally {
      one.listeners.delete(progress);
    }
  }

  async function loadNow(set, roles, tell) {
    if (!found.call) await startEngine();
    const stored = fromDisk ? await fromScripts(set) : undefined;
    await found.call("load", [roles, stored], tell, { set });
    running = true;
  }

  /** What the engine would fetch, as text: runtime and digits are in disk.js, each other set is in a script of its own. */
  async function fromScripts(set) {
    const stored = { assets: {}, sets: {}, files: {} };
    for (const name of ["disk.js", `disk-${set}.js`]) {
      if (name === "disk-digits.js" || (name === "disk.js" && running && set !== "digits")) continue;
      await script(name).catch(() => {
        throw new Error(`${name}, which holds the networks for pages opened from disk, is missing next to the book.`);
      });
      for (const part of Object.keys(stored)) Object.assign(stored[part], window.liveDisk[part]);
      delete window.liveDisk; // it is large
    }
    return stored;
  }

  // --- digits ----------------------------------------------------------------------------------------

  /** Digits in [−1, 1] in so many columns, as ink on one pixel of paper between them. */
  function draw(canvas, x, columns = Math.ceil(Math.sqrt(x.length / SIZE))) {
    canvas.width = 9 * columns - 1;
    canvas.height = 9 * Math.ceil(x.length / SIZE / columns) - 1;
    const picture = new ImageData(canvas.width, canvas.height);
    x.forEach((value, i) => {
      const [digit, pixel] = [Math.floor(i / SIZE), i % SIZE];
      const row = Math.floor(digit / columns) * 9 + Math.floor(pixel / 8);
      const column = (digit % columns) * 9 + (pixel % 8);
      picture.data[4 * (row * canvas.width + column) + 3] = Math.round(127.5 * (Math.min(1, Math.max(-1, value)) + 1));
    });
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  /** Noisy pictures are shown scaled to the contrast of data. */
  function seen(x, sigma) {
    return x.map((value) => (sigma ? (value * 0.5) / Math.sqrt(sigma ** 2 + 0.25) : value));
  }

  /** A time for readers: 5.3 ms, 53 ms, 26.6 s. */
  function show(ms) {
    if (Math.round(ms) >= 1000) return `${(ms / 1000).toFixed(1)} s`;
    return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  }

  /** Let the page paint where it computes itself; a hidden tab has no frames to wait for. For the steps of a walk. */
  let painted = 0;
  async function shared() {
    if (!found.sentence || performance.now() - painted < 30) return;
    await new Promise((next) => (document.hidden ? next() : setTimeout(next)));
    painted = performance.now();
  }

  return found;
})();
