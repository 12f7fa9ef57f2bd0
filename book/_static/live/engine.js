// The two networks and their samplers. Runs in a worker, or in the page where workers are blocked.

const SIZE = 64; // pixels of one digit
const SIGMA_MIN = 0.002;
const SIGMA_MAX = 80;
const RHO = 7;
const PATIENCE = 30_000; // milliseconds without a byte
const VERSION = new URL(import.meta.url).search;

let ort;
let sessions;

/** What could not be loaded, in a sentence for the reader. */
class LoadError extends Error {}

/** EDM's noise grid, as karras_sigmas of the package. */
export function karrasSigmas(n) {
  const [high, low] = [SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)];
  const sigmas = Array.from({ length: n }, (_, i) => Math.fround((high + (i / (n - 1)) * (low - high)) ** RHO));
  sigmas[0] = SIGMA_MAX;
  sigmas[n - 1] = Math.fround(SIGMA_MIN);
  return sigmas;
}

const hex = (buffer) => [...new Uint8Array(buffer)].map((b) => b.toString(16).padStart(2, "0")).join("");

/** The bytes of one file, if they are those of the manifest. */
async function download({ file, bytes, sha256 }, tick) {
  const name = file.split("/").pop();
  const url = new URL(`${file}?v=${sha256.slice(0, 12)}`, import.meta.url);
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
    throw new LoadError(`${name} could not be loaded: the connection broke off, or this page was opened as a file.`);
  } finally {
    clearTimeout(timer);
  }
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

/** Fetch, check and start everything; progress(bytes, of). */
export async function load(progress = () => {}) {
  if (sessions) return;
  if (typeof WebAssembly !== "object") throw new LoadError("This browser has no WebAssembly.");
  if (typeof DecompressionStream !== "function") throw new LoadError("This browser cannot unpack the runtime.");
  let assets;
  try {
    const response = await fetch(new URL(`manifest.json${VERSION}`, import.meta.url), { cache: "no-cache" });
    assets = (await response.json()).assets;
  } catch {
    throw new LoadError("The list of files could not be loaded: no connection, or this page was opened as a file.");
  }
  const wanted = [assets.wasm, assets.student, assets.teacher];
  const total = wanted.reduce((sum, asset) => sum + asset.bytes, 0);
  let have = 0;
  const tick = (n) => progress((have += n), total);
  const [packed, student, teacher] = await Promise.all(wanted.map((asset) => download(asset, tick)));
  ort = await import(new URL(`${assets.runtime.file}?v=${assets.runtime.sha256.slice(0, 12)}`, import.meta.url));
  ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
  ort.env.wasm.wasmBinary = await inflate(packed);
  const start = (data) => ort.InferenceSession.create(data, { executionProviders: ["wasm"] });
  const started = { student: await start(student), teacher: await start(teacher) };
  // The first evaluations are slower: the browser has not yet optimised the code. They are not shown.
  for (const session of [started.student, started.teacher, started.student, started.teacher]) {
    await evaluate(session, new Float32Array(16 * SIZE), 1);
  }
  sessions = started;
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

/** One evaluation of the student: { x, ms }. */
export async function sampleStudent(noise, sigma = SIGMA_MAX) {
  const start = performance.now();
  const x = Float32Array.from(await evaluate(sessions.student, noise, sigma));
  return { x, ms: performance.now() - start };
}

/** EDM's Heun sampler, as sample_heun of the package: 2n − 1 evaluations. step(x, sigma, count, ms) sees each. */
export async function sampleTeacher(noise, n = 18, step = () => {}) {
  const sigmas = [...karrasSigmas(n), 0];
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
      await step(y, next, count, ms);
      const e = await slope(y, next);
      y = x.map((value, j) => value + ((next - sigma) * (d[j] + e[j])) / 2);
    }
    x = y;
    await step(x, next, count, ms);
  }
  return { x, ms, evaluations: count };
}

// In a worker: { id, call, args } comes in; { id, progress | step | result | error } goes out.
if (typeof document === "undefined") {
  const calls = {
    load: (reply) => load((...progress) => reply({ progress })),
    sampleStudent: (_, noise, sigma) => sampleStudent(noise, sigma),
    sampleTeacher: (reply, noise, n) => sampleTeacher(noise, n, (...step) => reply({ step })),
  };
  self.onmessage = async ({ data: { id, call, args } }) => {
    const reply = (message) => self.postMessage({ id, ...message });
    try {
      reply({ result: await calls[call](reply, ...args) });
    } catch (error) {
      reply({ error: error instanceof LoadError ? error.message : `The network could not be run (${error.message}).` });
    }
  };
  self.postMessage({ ready: true });
}
