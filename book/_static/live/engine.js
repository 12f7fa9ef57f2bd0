// The networks and their samplers, as one function that uses nothing from outside: networks.js starts it in a worker from its
// text, which works from disk too, or in the page where workers are blocked. home is the folder of this file.
//
// A set of networks, such as the digits', has a student and a teacher for samples of one shape; the manifest lists the sets. What is
// asked of the engine says of which set, in its first argument: { set: "photos", labels: [7, 7] }, one label for each sample.
"use strict";

window.liveEngine = (home, version) => {
  "use strict";

  const SIGMA_MIN = 0.002;
  const SIGMA_MAX = 80;
  const RHO = 7;
  const WARM = 1024; // numbers in a batch that warms a network up, but at least one sample
  const PATIENCE = 30_000; // milliseconds without a byte

  let ort;
  const started = {}; // sessions by set and role
  const shapes = {}; // of one sample, by set

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
        if (have + part.value.length > bytes) throw new LoadError(`${name} is damaged: it's longer than it should be.`);
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
      throw new LoadError(`${name} is damaged: its content isn't what it should be.`);
    }
    return data;
  }

  async function inflate(data) {
    const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /**
   * Fetch or unpack, check and start the networks of a set, and the runtime if this is the first of all; stored is what the scripts
   * for a page from disk hold, if it is one; progress(bytes, of).
   */
  async function load({ set }, roles, stored, progress = () => {}) {
    const missing = roles.filter((role) => !started[set]?.[role]);
    if (!missing.length) return;
    if (typeof WebAssembly !== "object") throw new LoadError("This browser has no WebAssembly.");
    if (typeof DecompressionStream !== "function") throw new LoadError("This browser cannot unpack the runtime.");
    const { assets, sets } = stored ?? (await manifest());
    if (!sets[set]) throw new LoadError("These networks are not among the files of the book.");
    const wanted = missing.map((role) => sets[set][role]);
    if (!ort) wanted.unshift("wasm");
    const total = wanted.reduce((sum, name) => sum + assets[name].bytes, 0);
    let have = 0;
    const tick = (n) => progress((have += n), total);
    const get = (name) => (stored ? unpack(assets[name], stored.files[name], tick) : download(assets[name], tick));
    const files = await Promise.all(wanted.map(get));
    if (!ort) await startRuntime(assets.runtime, stored?.files.runtime, files.shift());
    shapes[set] = sets[set].shape;
    const start = (data) => ort.InferenceSession.create(data, { executionProviders: ["wasm"] });
    const sessions = {};
    for (const [i, role] of missing.entries()) sessions[role] = await start(files[i]);
    await warmUp(Object.values(sessions), set, Boolean(sets[set].classes));
    started[set] = { ...started[set], ...sessions };
  }

  async function startRuntime(asset, text, packed) {
    let runtime;
    if (text) {
      const script = await unpack(asset, text, () => {});
      const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
      runtime = await import(url);
      URL.revokeObjectURL(url);
    } else runtime = await import(address(asset));
    runtime.env.wasm.numThreads = 1; // more need headers that a static host does not send
    runtime.env.wasm.wasmBinary = await inflate(packed);
    ort = runtime;
  }

  async function manifest() {
    try {
      return await (await fetch(new URL(`manifest.json?v=${version}`, home), { cache: "no-cache" })).json();
    } catch {
      throw new LoadError("The list of files could not be loaded: no connection.");
    }
  }

  const sizeOf = (set) => shapes[set].reduce((product, n) => product * n, 1);

  /** D(x, σ) for a batch with one noise level. */
  async function evaluate(session, { set, labels }, x, sigma) {
    const batch = x.length / sizeOf(set);
    const feeds = {
      x: new ort.Tensor("float32", x, [batch, ...shapes[set]]),
      sigma: new ort.Tensor("float32", new Float32Array(batch).fill(sigma), [batch]),
    };
    if (labels) feeds.labels = new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [batch]);
    const { x0 } = await session.run(feeds);
    return x0.data;
  }

  /** The first evaluations are slower: the browser has not yet optimized the code. They are not shown. */
  async function warmUp(sessions, set, labeled) {
    const batch = Math.max(1, Math.floor(WARM / sizeOf(set)));
    const [x, labels] = [new Float32Array(batch * sizeOf(set)), labeled ? Array(batch).fill(0) : undefined];
    const enough = performance.now() + 400;
    for (let i = 0; i < 2 || (i < 12 && performance.now() < enough); i++) {
      for (const session of sessions) await evaluate(session, { set, labels }, x, 1);
    }
  }

  /** One evaluation of the student: { x, ms }. With repeats it is made so often, and ms is the median. */
  async function sampleStudent(of, noise, sigma = SIGMA_MAX, repeats = 1) {
    const times = [];
    let x;
    for (let i = 0; i < repeats; i++) {
      const start = performance.now();
      x = Float32Array.from(await evaluate(started[of.set].student, of, noise, sigma));
      times.push(performance.now() - start);
    }
    return { x, ms: times.sort((a, b) => a - b)[Math.floor(repeats / 2)] };
  }

  /**
   * EDM's Heun sampler from σ on, as sample_heun of the package: 2n − 1 evaluations. step(x, sigma, count, ms) sees each; when it
   * answers false the walk ends, and so does this with null.
   */
  async function sampleTeacher(of, noise, n = 18, from = SIGMA_MAX, step = () => {}) {
    const sigmas = [...karrasSigmas(n, from), 0];
    let x = Float32Array.from(noise);
    let ms = 0;
    let count = 0;
    const slope = async (y, sigma) => {
      const start = performance.now();
      const guess = await evaluate(started[of.set].teacher, of, y, sigma);
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

  // In a worker: { id, call, of, args } or { stop: id } comes in; { id, progress | step | result | error } goes out.
  if (typeof document === "undefined") {
    const { port1, port2 } = new MessageChannel();
    const stopped = new Set();
    /** Between two evaluations messages may come in. */
    const breathe = () => new Promise((next) => ((port1.onmessage = next), port2.postMessage(0)));
    const calls = {
      load: (reply, _, of, roles, stored) => load(of, roles, stored, (...progress) => reply({ progress })),
      sampleStudent: (reply, _, ...args) => sampleStudent(...args),
      sampleTeacher: (reply, id, of, noise, n, from) =>
        sampleTeacher(of, noise, n, from, async (...step) => {
          reply({ step });
          await breathe();
          return !stopped.delete(id);
        }),
    };
    self.onmessage = async ({ data: { id, call, of, args, stop } }) => {
      if (stop) return stopped.add(stop);
      const reply = (message) => self.postMessage({ id, ...message });
      try {
        reply({ result: await calls[call](reply, id, of, ...args) });
      } catch (error) {
        reply({ error: error instanceof LoadError ? error.message : `The network could not be run (${error.message}).` });
      }
    };
    self.postMessage({ ready: true });
  }

  return { karrasSigmas, load, sampleStudent, sampleTeacher };
};
