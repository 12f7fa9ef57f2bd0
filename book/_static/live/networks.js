// Digits' teacher and student in the page, for the live parts that use them: live.networks. Needs common.js, and engine.js for the
// computing. Nothing large is loaded before load() is called: over HTTP it is fetched; a page from disk loads disk.js, which holds
// the same bytes as text.
"use strict";

live.networks ??= (() => {
  const { src, dataset } = document.currentScript;
  const home = new URL(".", src);
  const fromDisk = location.protocol === "file:";
  const SIZE = 64;

  // --- the engine, in a worker or here ------------------------------------------------------------

  const script = (name) =>
    new Promise((done, failed) => {
      const url = new URL(`${name}?v=${dataset.version}`, home);
      const tag = live.element("script", { src: url, onload: done, onerror: () => failed(new Error(name)) });
      document.head.append(tag);
    });

  const found = { call: null, sentence: "", home, megabytes: dataset.megabytes, load, draw, show, seen, shared };

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
      found.sentence = "This browser blocks workers, so the page itself computes and may stutter meanwhile.";
      found.call = (name, args, onStep) => Object.assign(engine[name](...args, onStep), { stop: () => {} });
    }
  }

  /** call(name, args, onStep): a promise of what the engine answers, with stop() for a walk that nobody waits for any more. */
  function inWorker() {
    return new Promise((resolve, reject) => {
      const source = `(${window.liveEngine})(${JSON.stringify(home)}, ${JSON.stringify(dataset.version)})`;
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      const waiting = new Map();
      let last = 0;
      const call = (name, args, onStep = () => {}) => {
        const id = ++last;
        const answer = new Promise((done, failed) => waiting.set(id, { done, failed, onStep }));
        worker.postMessage({ id, call: name, args });
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

  // One engine for the page, however many parts use it.
  let loaded = null;
  const listeners = new Set();

  /** Load whatever is not there yet; say("Loading … 40 %") tells how far it is. */
  async function load(say) {
    if (typeof WebAssembly !== "object") {
      throw new Error("This browser has no WebAssembly, so the networks cannot run here.");
    }
    let percent = -1;
    const progress = (have, total) => {
      const now = Math.floor((10 * have) / total) * 10; // few steps, for those who listen
      if (now > percent) say(`Loading … ${(percent = now)} %`);
    };
    say("Loading …");
    listeners.add(progress);
    loaded ??= (async () => {
      if (!found.call) await startEngine();
      if (fromDisk && !window.liveDisk) {
        await script("disk.js").catch(() => {
          throw new Error("disk.js, which holds the networks for a page from disk, is missing beside the book.");
        });
      }
      await found.call("load", [window.liveDisk], (...args) => listeners.forEach((one) => one(...args)));
      delete window.liveDisk; // the engine has it
    })();
    try {
      await loaded;
    } catch (error) {
      loaded = null; // so that the next press tries again
      throw error;
    } finally {
      listeners.delete(progress);
    }
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

  function show(ms) {
    return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
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
