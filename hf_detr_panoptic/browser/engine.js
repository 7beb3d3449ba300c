// What works in the background: the model's two graphs, and all that is made of their answers.

import { idPng, panopticJson, rgbPng, storedStem, zip } from "./coco.js";
import { fillsOf, idsAt, paint, placedLabels } from "./drawing.js";
import { MOST_PIXELS, normalized, outputSize, resized, turnOf, withoutTurn } from "./photo.js";
import { above, chosenQueries, panopticMap } from "./segments.js";

const MOST_CANVAS = 16e6; // pixels that a phone's browser draws on
const TOLD = { tooLarge: "Make the photo smaller, or open it in a browser on a computer." };

/** What a person can mend, as a sentence. */
class Problem extends Error {}

let model = null; // {detector, masks, page, ort}
let photo = null; // what is known of the last photo: {name, file, bitmap, width, height, kept, masks, …}

const answers = {
  /** Sets the two graphs up. */
  async start({ runtime, wasm, detector, masks, page, threads }) {
    // From an address of its own: a page from a file and its worker are strangers to each other's.
    const ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const session = async (graph, what) => {
      try {
        return await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
      } catch (error) {
        throw new Problem(`The model is damaged: its ${what} cannot be read. Get it again. (${reason(error)})`);
      }
    };
    model = { ort, page, detector: await session(detector, "detector"), masks: await session(masks, "masks") };
    return { threads: ort.env.wasm.numThreads };
  },

  /** A photo through the model, once. */
  async photo({ file, name }) {
    const started = performance.now();
    photo = null;
    const opened = await open(file, name);
    try {
      Object.assign(opened, await detected(opened));
    } catch (error) {
      if (error instanceof Problem) throw error;
      throw new Problem(`The model gave up on ${sized(opened)}. ${TOLD.tooLarge} (${reason(error)})`);
    }
    photo = opened;
    return { name, width: photo.width, height: photo.height, milliseconds: performance.now() - started };
  },

  /** Its segments at a threshold, and the picture of them; the model is not asked. */
  async look({ threshold, side, letters, plain }) {
    const { page } = model;
    const settings = { ...page.settings, threshold };
    if (photo.map?.threshold !== threshold) {
      const size = [photo.height, photo.width];
      photo.map = { threshold, ...panopticMap(...above(photo.kept, photo.masks, threshold), page.space, size, settings) };
    }
    const { width, height } = within(photo, side ** 2, side);
    const canvas = drawn(width, height, letters, plain);
    const { segments, voidArea } = photo.map;
    const fills = fillsOf(segments, page.space);
    const ids = Uint16Array.from(idsAt(photo.map, width, height));
    const shown = segments.map((segment) => ({ ...segment, fill: fills[segment.id] }));
    return { segments: shown, voidArea, width, height, ids, picture: canvas.transferToImageBitmap() };
  },

  /** The picture to keep, as large as the photo where the browser can draw that. */
  async picture() {
    const { width, height } = within(photo, MOST_CANVAS, Infinity);
    const canvas = drawn(width, height, Math.max(11, Math.round(Math.max(width, height) / 50)), false);
    return { blob: await canvas.convertToBlob({ type: "image/png" }), name: `${storedStem(photo.name)}_segments.png` };
  },

  /** The photo with its map as COCO panoptic, zipped. */
  async archive() {
    const { page } = model;
    const stem = storedStem(photo.name);
    const [fileName, content] = await storedPhoto(stem);
    const pngName = `${stem}.png`;
    const description = `predicted by ${page.title} for ${photo.name}`;
    const json = panopticJson(photo.map, page.space, { fileName, pngName, originalName: photo.name, description });
    const files = [
      [`images/${fileName}`, content],
      ["annotations/panoptic_val.json", json],
      [`annotations/panoptic_val/${pngName}`, await idPng(photo.map)],
    ];
    return { blob: new Blob([zip(files)], { type: "application/zip" }), name: `${stem}_panoptic.zip` };
  },
};

const reason = (error) => String(error?.message ?? error).slice(0, 200);
const sized = ({ width, height }) => `a photo of ${width.toLocaleString("en")} × ${height.toLocaleString("en")} pixels`;

/** The largest size in a photo's shape that keeps within so many pixels, and a longest side. */
function within({ width, height }, pixels, side) {
  const scale = Math.min(1, Math.sqrt(pixels / (width * height)), side / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

function canvasOf(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Problem(`This browser has no room to draw ${sized({ width, height })}. ${TOLD.tooLarge}`);
  return [canvas, context];
}

async function open(file, name) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!bytes.length) throw new Problem(`${name} is empty. Copy or download it again.`);
  const { orientation, bytes: unturned } = withoutTurn(bytes);
  let bitmap;
  try {
    // Without a look at colour profiles, as in training.
    bitmap = await createImageBitmap(new Blob([unturned], { type: file.type }), { colorSpaceConversion: "none" });
  } catch {
    const fix = "Save it as JPEG or PNG.";
    throw new Problem(`${name} is no photo that this browser can open: damaged, too large, or of another format. ${fix}`);
  }
  const sides = [bitmap.width, bitmap.height];
  const [width, height] = orientation > 4 ? sides.reverse() : sides;
  const opened = { name, bytes, bitmap, orientation, width, height, transparent: false };
  if (width * height > MOST_PIXELS) throw new Problem(`${name} is ${sized(opened)}, too many. ${TOLD.tooLarge}`);
  return opened;
}

/** The photo upright onto a canvas, from a row on, as it is or of another size. */
function put(context, { bitmap, orientation, width, height }, from = 0, newWidth = width, newHeight = height) {
  context.imageSmoothingEnabled = newWidth !== width || newHeight !== height;
  context.imageSmoothingQuality = "high";
  context.setTransform(newWidth / width, 0, 0, newHeight / height, 0, -from);
  context.transform(...turnOf(orientation, width, height));
  context.drawImage(bitmap, 0, 0);
  context.resetTransform();
}

/** `(from, to)` → RGBA bytes of these rows, on white where they are transparent. */
function rowsOf(opened) {
  const { width, height } = opened;
  const band = Math.max(1, Math.min(height, Math.floor(2 ** 22 / width)));
  const [, context] = canvasOf(width, band);
  return (from, to) => {
    context.clearRect(0, 0, width, band);
    put(context, opened, from);
    const { data } = context.getImageData(0, 0, width, to - from);
    for (let at = 3; at < data.length; at += 4) {
      if (data[at] === 255) continue;
      opened.transparent = true;
      for (let channel = at - 3; channel < at; channel++) {
        data[channel] = Math.round((data[channel] * data[at] + 255 * (255 - data[at])) / 255);
      }
    }
    return data;
  };
}

/** What the model says: the queries that pass the floor of the slider, and their masks. */
async function detected(opened) {
  const { ort, page, detector, masks } = model;
  const size = [opened.height, opened.width];
  const [height, width] = outputSize(...size, page.preprocess);
  const bytes = resized(rowsOf(opened), size, [height, width], page.preprocess.resample);
  const pixels = new ort.Tensor("float32", normalized(bytes, page.preprocess), [1, 3, height, width]);
  const found = await detector.run({ pixel_values: pixels });
  const kept = chosenQueries(found.logits.data, found.logits.dims[2], page.space, page.floor);
  const count = kept.queries.length;
  if (!count) return { kept, masks: { list: [], height: 1, width: 1 } };
  const depth = found.states.dims[2];
  const states = new Float32Array(count * depth);
  kept.queries.forEach((query, row) =>
    states.set(found.states.data.subarray(query * depth, (query + 1) * depth), row * depth),
  );
  const feeds = { states: new ort.Tensor("float32", states, [1, count, depth]) };
  for (const name of masks.inputNames) feeds[name] ??= found[name];
  const { pred_masks: logits } = await masks.run(feeds);
  const [rows, columns] = logits.dims.slice(2);
  const list = kept.queries.map((_, row) => logits.data.subarray(row * rows * columns, (row + 1) * rows * columns));
  return { kept, masks: { list, height: rows, width: columns } };
}

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

function drawn(width, height, letters, plain) {
  const { page } = model;
  const { map } = photo;
  const [canvas, context] = canvasOf(width, height);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  put(context, photo, 0, width, height);
  if (plain) return canvas;
  const ids = idsAt(map, width, height);
  const fills = fillsOf(map.segments, page.space);
  const pixels = context.getImageData(0, 0, width, height);
  paint(pixels.data, ids, width, height, fills);
  context.putImageData(pixels, 0, 0);
  const font = (size) => `600 ${size}px ${FONT}`;
  const measure = (text, size) => {
    context.font = font(size);
    return context.measureText(text).width;
  };
  context.textBaseline = "middle";
  for (const label of placedLabels(ids, width, height, map.segments, page.space, letters, measure)) {
    context.fillStyle = "rgb(20 20 24)";
    context.fillRect(label.x, label.y, label.width, label.height);
    context.fillStyle = `rgb(${fills[label.id].join(" ")})`;
    context.fillRect(label.x, label.y, Math.max(1, Math.round(letters / 7)), label.height);
    context.fillStyle = "#fff";
    context.font = font(label.size);
    context.fillText(label.text, label.x + label.size * 0.3, label.y + label.height * 0.54);
  }
  return canvas;
}

const PLAIN = { jpg: [0xff, 0xd8, 0xff], png: [0x89, 0x50, 0x4e, 0x47] }; // what every reader opens alike

/** [name, bytes] of the photo for a dataset: byte for byte where everybody sees the same in it, else written anew. */
async function storedPhoto(stem) {
  const kind = Object.keys(PLAIN).find((suffix) => PLAIN[suffix].every((byte, at) => photo.bytes[at] === byte));
  if (kind && photo.orientation === 1 && !photo.transparent) return [`${stem}.${kind}`, photo.bytes];
  const { width, height } = photo;
  if (kind === "jpg" && width * height <= MOST_CANVAS) {
    const [canvas, context] = canvasOf(width, height);
    put(context, photo);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    return [`${stem}.jpg`, new Uint8Array(await blob.arrayBuffer())];
  }
  const rows = rowsOf(photo);
  let [top, band] = [0, null];
  const png = await rgbPng(width, height, (y, line) => {
    if (!band || y * width * 4 >= top * width * 4 + band.length) [top, band] = [y, rows(y, Math.min(y + 64, height))];
    for (let x = 0, at = (y - top) * width * 4; x < width; x++, at += 4) line.set(band.subarray(at, at + 3), 3 * x);
  });
  return [`${stem}.png`, png];
}

/** Answers what the page asks, one after the other: {id, kind, …} → {id, answer} or {id, problem}. */
export function serve(port) {
  let last = Promise.resolve();
  port.onmessage = ({ data: { id, kind, ...asked } }) => {
    last = last.then(async () => {
      try {
        const answer = await answers[kind](asked);
        port.postMessage({ id, answer }, [answer.picture, answer.ids?.buffer].filter(Boolean));
      } catch (error) {
        const problem = error instanceof Problem ? error.message : `Something went wrong: ${reason(error)}`;
        port.postMessage({ id, problem });
      }
    });
  };
}
