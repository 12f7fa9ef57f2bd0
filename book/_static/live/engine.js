// The two networks and their samplers, as one function that uses nothing from outside: networks.js starts it in a worker from its
// text, which works from disk too, or in the page where workers are blocked. home is the folder of this file.
"use strict";

window.liveEngine = (home, version) => {
  "use strict";

  const SIZE = 64; // pixels of one digit
  const SIGMA_MIN = 0.002;
  const SIGMA_MAX = 80;
  const RHO = 7;
  const PATIENCE = 30_000; // milliseconds without a byte

  let ort;
  let sessions;

  /** What could not be loaded, in a sentence for the reader. */
  class LoadError extends Error {}

  /** EDM's noise grid, as karras_sigmas of the package. */
  function karrasSigmas(n, from = SIGMA_MAX) {
    const [high, low] = [from ** (1 / RHO), SIGMA_MIN ** (1 / RHO)];
    const sigmas = Array.from({ length: n }, (_, i) => Math.fround((high + (i / (n - 1)) * (low - high)) ** RHO));
    sigmas[0] = from;
    sigmas[n - 1] = Math.fround(SIGMA_MIN);
    return sigmas;
  }

  const nameOf = (file) => file.split("/").pop();
  const address = ({ file, sha256 }) => new URL(`${file}?v=${sha256.slice(0, 12)}`, home);
  const hex = (buffer) => [...new Uint8Array(buffer)].map((b) => b.toString(16).padStart(2, "0")).join("");

  /** The bytes of one file, if they are those of the manifest. */
  async function download({ file, bytes, sha256 }, tick) {
    const name = nameOf(file);
    const url = address({ file, sha256 });
    const data = new Uint8Array(bytes);
    let have = 0;
    const stalled = new AbortController();
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stalled.abort(), PATIENCE);
    };
    try {
      alive();
      // "no-cache" asks the server whether a stored copy is still right, so that a damaged one is not kept for ever.
      const response = await fetch(url, { cache: "no-cache", signal: stalled.signal });
      if (!response.ok) throw new LoadError(`${name} is missing on the server (status ${response.status}).`);
      const reader = response.body.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        if (have + part.value.length > bytes) throw new LoadError(`${name} is damaged: it is longer than it should be.`);
        data.set(part.value, have);
        have += part.value.length;
        tick(part.value.length);
        alive();
      }
    } catch (error) {
      if (error instanceof LoadError) throw error;
      throw new LoadError(`${name} could not be loaded: the connection broke off.`);
    } finally {
      clearTimeout(timer);
    }
    return checked({ file, bytes, sha256 }, data, have);
  }

  /** The same bytes from disk.js, where nothing can be fetched. */
  function unpack(asset, text, tick) {
    const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    tick(data.length);
    return checked(asset, data, data.length);
  }

  async function checked({ file, bytes, sha256 }, data, have) {
    const name = nameOf(file);
    if (have < bytes) throw new LoadError(`${name} is incomplete: ${have} of ${bytes} bytes arrived.`);
    // Browsers hash only on https and localhost; elsewhere the size has to do.
    if (globalThis.crypto?.subtle && hex(await crypto.subtle.digest("SHA-256", data)) !== sha256) {
      throw new LoadError(`${name} is damaged: its content is not what it should be.`);
    }
    return data;
  }

  async function inflate(data) {
    const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Fetch or unpack, check and start everything; stored is what disk.js holds, if it is there; progress(bytes, of). */
  async function load(stored, progress = () => {}) {
    if (sessions) return;
    if (typeof WebAssembly !== "object") throw new LoadError("This browser has no WebAssembly.");
    if (typeof DecompressionStream !== "function") throw new LoadError("This browser cannot unpack the runtime.");
    const assets = stored?.assets ?? (await manifest());
    const wanted = ["wasm", "student", "teacher"];
    const total = wanted.reduce((sum, name) => sum + assets[name].bytes, 0);
    let have = 0;
    const tick = (n) => progress((have += n), total);
    const get = (name) => (stored ? unpack(assets[name], stored.files[name], tick) : download(assets[name], tick));
    const [packed, student, teacher] = await Promise.all(wanted.map(get));
    if (stored) {
      const script = await unpack(assets.runtime, stored.files.runtime, () => {});
      const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
      ort = await import(url);
      URL.revokeObjectURL(url);
    } else ort = await import(address(assets.runtime));
    ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
    ort.env.wasm.wasmBinary = await inflate(packed);
    const start = (data) => ort.InferenceSession.create(data, { executionProviders: ["wasm"] });
    const started = { student: await start(student), teacher: await start(teacher) };
    await warmUp(started);
    sessions = started;
  }

  async function manifest() {
    try {
      return (await (await fetch(new URL(`manifest.json?v=${version}`, home), { cache: "no-cache" })).json()).assets;
    } catch {
      throw new LoadError("The list of files could not be loaded: no connection.");
    }
  }

  /** D(x, σ) for a batch of digits with one noise level. */
  async function evaluate(session, x, sigma) {
    const batch = x.length / SIZE;
    const feeds = {
      x: new ort.Tensor("float32", x, [batch, 1, 8, 8]),
      sigma: new ort.Tensor("float32", new Float32Array(batch).fill(sigma), [batch]),
    };
    const { x0 } = await session.run(feeds);
    return x0.data;
  }

  /** The first evaluations are slower: the browser has not yet optimised the code. They are not shown. */
  async function warmUp({ student, teacher }) {
    const enough = performance.now() + 400;
    for (let i = 0; i < 2 || (i < 12 && performance.now() < enough); i++) {
      for (const session of [student, teacher]) await evaluate(session, new Float32Array(16 * SIZE), 1);
    }
  }

  /** One evaluation of the student: { x, ms }. With repeats it is made so often, and ms is the median. */
  async function sampleStudent(noise, sigma = SIGMA_MAX, repeats = 1) {
    const times = [];
    let x;
    for (let i = 0; i < repeats; i++) {
      const start = performance.now();
      x = Float32Array.from(await evaluate(sessions.student, noise, sigma));
      times.push(performance.now() - start);
    }
    return { x, ms: times.sort((a, b) => a - b)[Math.floor(repeats / 2)] };
  }

  /**
   * EDM's Heun sampler from σ on, as sample_heun of the package: 2n − 1 evaluations. step(x, sigma, count, ms) sees each; when it
   * answers false the walk ends, and so does this with null.
   */
  async function sampleTeacher(noise, n = 18, from = SIGMA_MAX, step = () => {}) {
    const sigmas = [...karrasSigmas(n, from), 0];
    let x = Float32Array.from(noise);
    let ms = 0;
    let count = 0;
    const slope = async (y, sigma) => {
      const start = performance.now();
      const guess = await evaluate(sessions.teacher, y, sigma);
      const d = y.map((value, j) => (value - guess[j]) / sigma);
      ms += performance.now() - start;
      count += 1;
      return d;
    };
    for (let i = 0; i < n; i++) {
      const [sigma, next] = [sigmas[i], sigmas[i + 1]];
      const d = await slope(x, sigma);
      let y = x.map((value, j) => value + (next - sigma) * d[j]);
      if (next > 0) {
        if ((await step(y, next, count, ms)) === false) return null;
        const e = await slope(y, next);
        y = x.map((value, j) => value + ((next - sigma) * (d[j] + e[j])) / 2);
      }
      x = y;
      if ((await step(x, next, count, ms)) === false) return null;
    }
    return { x, ms, evaluations: count };
  }

  // In a worker: { id, call, args } or { stop: id } comes in; { id, progress | step | result | error } goes out.
  if (typeof document === "undefined") {
    const { port1, port2 } = new MessageChannel();
    const stopped = new Set();
    /** Between two evaluations messages may come in. */
    const breathe = () => new Promise((next) => ((port1.onmessage = next), port2.postMessage(0)));
    const calls = {
      load: (reply, _, stored) => load(stored, (...progress) => reply({ progress })),
      sampleStudent: (reply, _, ...args) => sampleStudent(...args),
      sampleTeacher: (reply, id, noise, n, from) =>
        sampleTeacher(noise, n, from, async (...step) => {
          reply({ step });
          await breathe();
          return !stopped.delete(id);
        }),
    };
    self.onmessage = async ({ data: { id, call, args, stop } }) => {
      if (stop) return stopped.add(stop);
      const reply = (message) => self.postMessage({ id, ...message });
      try {
        reply({ result: await calls[call](reply, id, ...args) });
      } catch (error) {
        reply({ error: error instanceof LoadError ? error.message : `The network could not be run (${error.message}).` });
      }
    };
    self.postMessage({ ready: true });
  }

  return { karrasSigmas, load, sampleStudent, sampleTeacher };
};
