// Recognises spoken commands in the browser, with LiteRT.js and a model that `speech-gru export` wrote.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

/** A loaded model: `await Recognizer.load(bytes)`, then `await recognizer.probabilities(samples)`. */
export class Recognizer {
  /** @param {Uint8Array} bytes of a .tflite file */
  static async load(bytes) {
    const description = await readDescription(bytes);
    liteRt ??= loadLiteRt(new URL("node_modules/@litertjs/core/wasm/", import.meta.url).href);
    await liteRt;
    return new Recognizer(await loadAndCompile(bytes, { accelerator: "wasm" }), description);
  }

  constructor(model, description) {
    this.model = model;
    this.labels = description.labels;
    this.sampleRate = description.sample_rate;
    this.clipSamples = description.clip_samples;
    this.thresholds = description.thresholds ?? {};
  }

  /** One probability for each label, of samples (Float32Array) in [-1, 1] at `sampleRate`. */
  async probabilities(samples) {
    const input = new Tensor(fitLength(samples, this.clipSamples), [1, this.clipSamples]);
    const outputs = await this.model.run([input]); // the first holds the probabilities
    const probabilities = outputs[0].toTypedArray().slice();
    for (const tensor of [input, ...outputs]) tensor.delete(); // WebAssembly's memory isn't garbage-collected
    return probabilities;
  }

  /** The most probable label, or _unknown_ where that is less probable than the model's threshold for it. */
  word(probabilities) {
    const best = probabilities.indexOf(Math.max(...probabilities));
    const sure = probabilities[best] >= (this.thresholds[this.labels[best]] ?? 0);
    return sure || !this.labels.includes("_unknown_") ? this.labels[best] : "_unknown_";
  }

  delete() {
    this.model.delete();
  }
}

/** The latest of speech_gru/artefact.py that this page knows. */
const FORMAT = 2;
let liteRt;

/** The line of JSON in the file, if the file is as it was exported: see speech_gru/artefact.py. */
async function readDescription(bytes) {
  const text = new TextDecoder("latin1").decode(bytes); // one character a byte, so that indices are the same
  const found = /\{"speech_gru": (\d+), "sha256": "([0-9a-f]{64})", [^\n]*/.exec(text);
  if (!found) throw new Error("not a model that `speech-gru export` wrote, or cut off; export it again");
  const digest = found.index + found[0].indexOf(found[2]);
  const blank = bytes.slice().fill("0".charCodeAt(0), digest, digest + 64);
  // Browsers offer SHA-256 to https:// and localhost only; they offer the microphone nowhere else either.
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", blank));
  if (Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("") !== found[2]) {
    throw new Error("the model was changed or cut off after it was exported; export it again");
  }
  if (found[1] > FORMAT) {
    throw new Error(`format ${found[1]}, of a later speech_gru; this page reads up to ${FORMAT}: update it`);
  }
  const line = bytes.subarray(found.index, found.index + found[0].length);
  const description = JSON.parse(new TextDecoder().decode(line));
  const kind = description.kind ?? "clip";
  if (kind !== "clip") throw new Error(`the model is of kind "${kind}"; expected one for whole clips`);
  return description;
}

/** As in training: the loudest `length` samples (the first of equals), or silence on both sides. */
function fitLength(samples, length) {
  const missing = length - samples.length;
  if (missing >= 0) {
    const clip = new Float32Array(length);
    clip.set(samples, missing >> 1);
    return clip;
  }
  const energy = new Float64Array(samples.length + 1);
  samples.forEach((sample, i) => (energy[i + 1] = energy[i] + sample * sample));
  let start = 0;
  for (let i = 0; i + length <= samples.length; i++) {
    if (energy[i + length] - energy[i] > energy[start + length] - energy[start]) start = i;
  }
  return samples.slice(start, start + length);
}

/** The samples of an audio file of any format that the browser decodes: the mean of its channels, at `sampleRate`. */
async function decode(file, sampleRate) {
  const audio = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

/** `count` samples of the microphone at `sampleRate`; `started` is called when it listens. */
async function record(sampleRate, count, started) {
  // What calls filter out of a voice, training didn't.
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const context = new AudioContext({ sampleRate });
  try {
    const tap = `registerProcessor("tap", class extends AudioWorkletProcessor {
      process([[channel]]) { if (channel) this.port.postMessage(channel.slice()); return true; }
    });`;
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([tap], { type: "text/javascript" })));
    const node = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
    const samples = new Float32Array(count);
    const full = new Promise((resolve) => {
      let filled = 0;
      node.port.onmessage = ({ data }) => {
        samples.set(data.subarray(0, count - filled), filled);
        filled = Math.min(count, filled + data.length);
        if (filled === count) resolve();
      };
    });
    context.createMediaStreamSource(stream).connect(node);
    await context.resume();
    started();
    await full;
    return samples;
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
  }
}

/** A WAV file of 32-bit floats: exactly what the model heard, to listen to or to save. */
function wav(samples, sampleRate) {
  const header = new DataView(new ArrayBuffer(44));
  const put = (at, name) => [...name].forEach((char, i) => header.setUint8(at + i, char.charCodeAt(0)));
  const bytes = samples.length * 4;
  put(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  put(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // the size of what follows: float format, 1 channel, rate, bytes a second,
  header.setUint16(20, 3, true); // bytes of a sample, bits of a sample
  header.setUint16(22, 1, true);
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, sampleRate * 4, true);
  header.setUint16(32, 4, true);
  header.setUint16(34, 32, true);
  put(36, "data");
  header.setUint32(40, bytes, true);
  return new Blob([header, samples], { type: "audio/wav" });
}

const element = (id) => document.getElementById(id);
let recognizer;

async function use(bytes) {
  recognizer?.delete();
  recognizer = undefined;
  recognizer = await Recognizer.load(bytes);
  element("status").textContent = "Choose a clip, or record one.";
}

async function recognize(samples) {
  const probabilities = await recognizer.probabilities(samples);
  const order = [...recognizer.labels.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  element("ranking").replaceChildren(...order.map((index) => row(recognizer.labels[index], probabilities[index])));
  element("status").textContent = `Heard: ${recognizer.word(probabilities)}`;
  URL.revokeObjectURL(element("heard").src);
  element("heard").src = URL.createObjectURL(wav(samples, recognizer.sampleRate));
  element("heard").hidden = false;
}

function row(label, probability) {
  const [row, word, bar, number] = ["tr", "th", "td", "td"].map((name) => document.createElement(name));
  word.scope = "row";
  word.textContent = label;
  bar.append(Object.assign(document.createElement("meter"), { value: probability, ariaHidden: "true" }));
  number.textContent = `${(100 * probability).toFixed(1)} %`; // read out in the bar's place
  row.append(word, bar, number);
  return row;
}

/** One thing at a time; what goes wrong is said, and the page stays usable. */
async function attempt(message, work) {
  element("sources").disabled = element("model").disabled = true;
  element("status").textContent = message;
  try {
    await work();
  } catch (error) {
    element("status").textContent = `That failed: ${error.message}`;
  }
  element("sources").disabled = !recognizer;
  element("model").disabled = false;
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}; expected a .tflite file`);
  return response.arrayBuffer();
}

/** Twice a clip's length, for nobody speaks at the click: of the two the louder stretch is recognised. */
async function listen() {
  const started = () => (element("status").textContent = "Speak now.");
  await recognize(await record(recognizer.sampleRate, 2 * recognizer.clipSamples, started));
}

element("model").addEventListener("change", ({ target: { files: [file] } }) => {
  if (file) attempt(`Loading ${file.name}…`, async () => use(new Uint8Array(await file.arrayBuffer())));
});
element("clip").addEventListener("change", ({ target: { files: [file] } }) => {
  if (file) attempt(`Reading ${file.name}…`, async () => recognize(await decode(file, recognizer.sampleRate)));
});
element("record").addEventListener("click", () => attempt("Asking for the microphone…", listen));

const url = new URLSearchParams(location.search).get("model");
if (url) attempt(`Loading ${url}…`, async () => use(new Uint8Array(await download(url))));
