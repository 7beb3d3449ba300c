// The photo as the model sees it: what `preprocess.py` does, byte for byte where torch works on bytes.

export const MOST_PIXELS = 60e6;

/** Python's `round`: halves go to the even number. */
const rounded = (value) => {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
};

/** [height, width] that a photo of this size is resized to. */
export function outputSize(height, width, preprocess) {
  const { exact_size: exact, fit_within: fit, shortest_edge: shortest, longest_edge: longest } = preprocess;
  if (exact) return [...exact];
  if (fit) {
    const scale = Math.min(fit[0] / height, fit[1] / width);
    return [Math.max(Math.trunc(height * scale), 1), Math.max(Math.trunc(width * scale), 1)];
  }
  if (!shortest || !longest) return [height, width];
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  const target = (long / short) * shortest > longest ? (longest * short) / long : shortest;
  const newShort = rounded(target);
  const newLong = newShort === short ? long : Math.max(Math.trunc((target * long) / short), 1);
  const edges = [Math.max(newShort, 1), newLong];
  return height <= width ? edges : edges.reverse();
}

const triangle = (x) => Math.max(0, 1 - Math.abs(x));
const cubic = (x) => {
  const a = -0.5; // Pillow's; without antialias torch has -0.75
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
};
const nearest = null;
const FILTERS = { 0: [nearest, 0], 2: [triangle, 1], 3: [cubic, 2] }; // by Pillow's number: filter, half its width

/**
 * Which pixels of a line each new pixel is made of, and by what weights: whole numbers of 16 bits, as torch has them.
 * → {starts, counts, weights, most, shift}: `most` weights a pixel.
 */
export function weightsOf(before, after, resample) {
  const [filter, reach] = FILTERS[resample];
  const scale = before / after;
  const support = reach * Math.max(scale, 1);
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(after);
  const counts = new Int32Array(after);
  if (filter === nearest) {
    const single = Math.fround(scale); // torch counts these places in float32
    for (let i = 0; i < after; i++) starts[i] = Math.min(Math.floor(Math.fround((i + 0.5) * single)), before - 1);
    return { starts, counts: counts.fill(1), weights: new Int32Array(after).fill(1), most: 1, shift: 0 };
  }
  const exact = new Float64Array(after * most);
  let highest = 0;
  for (let i = 0; i < after; i++) {
    const center = scale * (i + 0.5);
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.max(Math.min(Math.trunc(center + support + 0.5), before) - start, 0), most);
    let total = 0;
    for (let j = 0; j < count; j++) {
      total += exact[i * most + j] = filter((j + start - center + 0.5) / Math.max(scale, 1));
    }
    for (let j = 0; j < count && total; j++) {
      highest = Math.max(highest, (exact[i * most + j] /= total));
    }
    [starts[i], counts[i]] = [start, count];
  }
  let shift = 0;
  while (shift < 22 && Math.trunc(0.5 + highest * 2 ** (shift + 1)) < 1 << 15) shift++;
  const weights = Int32Array.from(exact, (weight) => Math.trunc(weight * 2 ** shift + (weight < 0 ? -0.5 : 0.5)));
  return { starts, counts, weights, most, shift };
}

/**
 * Resized as torchvision resizes bytes with antialias: along the rows, rounded to bytes, then down the columns.
 * `rows(from, to)` → bytes of these rows, `channels` a pixel, of which the first three count.
 * → Uint8ClampedArray of [height, width, 3].
 */
export function resized(rows, [height, width], [newHeight, newWidth], resample = 2, channels = 4) {
  const across = weightsOf(width, newWidth, resample);
  const half = across.shift ? 1 << (across.shift - 1) : 0;
  const narrow = new Uint8ClampedArray(height * newWidth * 3);
  const band = Math.max(1, Math.floor(2 ** 22 / width));
  for (let top = 0, at = 0; top < height; top += band) {
    const bottom = Math.min(top + band, height);
    const bytes = rows(top, bottom);
    for (let y = 0; y < bottom - top; y++) {
      for (let x = 0; x < newWidth; x++) {
        let [red, green, blue] = [half, half, half];
        if (width === newWidth) {
          const from = (y * width + x) * channels;
          narrow[at++] = bytes[from];
          narrow[at++] = bytes[from + 1];
          narrow[at++] = bytes[from + 2];
          continue;
        }
        const first = x * across.most;
        let from = (y * width + across.starts[x]) * channels;
        for (let j = 0; j < across.counts[x]; j++, from += channels) {
          const weight = across.weights[first + j];
          red += weight * bytes[from];
          green += weight * bytes[from + 1];
          blue += weight * bytes[from + 2];
        }
        narrow[at++] = red >> across.shift;
        narrow[at++] = green >> across.shift;
        narrow[at++] = blue >> across.shift;
      }
    }
  }
  if (height === newHeight) return narrow;
  const down = weightsOf(height, newHeight, resample);
  const line = newWidth * 3;
  const small = new Uint8ClampedArray(newHeight * line);
  const sums = new Int32Array(line);
  for (let y = 0; y < newHeight; y++) {
    sums.fill(down.shift ? 1 << (down.shift - 1) : 0);
    for (let j = 0; j < down.counts[y]; j++) {
      const weight = down.weights[y * down.most + j];
      const from = (down.starts[y] + j) * line;
      for (let x = 0; x < line; x++) sums[x] += weight * narrow[from + x];
    }
    for (let x = 0; x < line; x++) small[y * line + x] = sums[x] >> down.shift;
  }
  return small;
}

/** Bytes [height, width, 3] → float32 [3, height, width], in stock's order of operations. */
export function normalized(bytes, preprocess) {
  const area = bytes.length / 3;
  const values = new Float32Array(3 * area);
  const unit = Math.fround(1 / preprocess.rescale);
  for (let channel = 0; channel < 3; channel++) {
    const mean = Math.fround(Math.fround(preprocess.mean[channel]) * unit);
    const std = Math.fround(Math.fround(preprocess.std[channel]) * unit);
    const table = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte - mean) / std);
    for (let i = 0; i < area; i++) values[channel * area + i] = table[bytes[3 * i + channel]];
  }
  return values;
}

/**
 * A JPEG, PNG or WebP without what EXIF says of which way is up, and what it said: {orientation, bytes}.
 * Browsers differ in whose EXIF they look at; like this none has anything to turn.
 */
export function withoutTurn(bytes) {
  const upright = { orientation: 1, bytes };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    const block = exifBlock(view);
    if (!block) return upright;
    const little = view.getUint16(block.at) === 0x4949;
    const directory = block.at + view.getUint32(block.at + 4, little);
    const count = view.getUint16(directory, little);
    for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
      if (view.getUint16(entry, little) !== 0x0112) continue;
      const orientation = view.getUint16(entry + 8, little);
      if (orientation < 2 || orientation > 8) return upright;
      if (block.end) return { orientation, bytes: cut(bytes, block.start, block.end) };
      const copy = bytes.slice();
      new DataView(copy.buffer).setUint16(entry + 8, 1, little);
      return { orientation, bytes: copy };
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged EXIF does not damage the photo
  }
  return upright;
}

function cut(bytes, start, end) {
  const rest = new Uint8Array(bytes.length - (end - start));
  rest.set(bytes.subarray(0, start));
  rest.set(bytes.subarray(end), start);
  return rest;
}

/** Where the TIFF header of a file's EXIF stands; in a PNG also where its chunk does, which has a checksum. */
function exifBlock(view) {
  const word = (at) => (at + 4 <= view.byteLength ? view.getUint32(at) : 0);
  const behind = (at) => (word(at) === 0x45786966 ? at + 6 : at); // "Exif\0\0"
  if (word(0) >>> 16 === 0xffd8) {
    for (let at = 2; word(at) >>> 24 === 0xff && word(at) >>> 16 !== 0xffda; at += 2 + view.getUint16(at + 2)) {
      if (word(at) >>> 16 === 0xffe1 && word(at + 4) === 0x45786966) return { at: at + 10 };
    }
  } else if (word(0) === 0x89504e47) {
    for (let at = 8; at + 8 < view.byteLength; at += 12 + word(at)) {
      if (word(at + 4) === 0x65584966) return { at: behind(at + 8), start: at, end: at + 12 + word(at) }; // "eXIf"
    }
  } else if (word(0) === 0x52494646 && word(8) === 0x57454250) {
    for (let at = 12; at + 8 < view.byteLength; at += 8 + 2 * Math.ceil(view.getUint32(at + 4, true) / 2)) {
      if (word(at) === 0x45584946) return { at: behind(at + 8) }; // "EXIF"
    }
  }
  return null;
}

/** The transform of a canvas that turns a photo of EXIF's orientation upright: width and height are the upright's. */
export function turnOf(orientation, width, height) {
  return [
    [1, 0, 0, 1, 0, 0],
    [-1, 0, 0, 1, width, 0],
    [-1, 0, 0, -1, width, height],
    [1, 0, 0, -1, 0, height],
    [0, 1, 1, 0, 0, 0],
    [0, 1, -1, 0, width, 0],
    [0, -1, -1, 0, width, height],
    [0, -1, 1, 0, 0, height],
  ][orientation - 1];
}
