// What a person takes home: COCO panoptic as `dataset/writer.py` writes it, one photo's, in a zip.

const CRCS = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

const crc32 = (...parts) => {
  let crc = -1;
  for (const part of parts) {
    for (let i = 0; i < part.length; i++) crc = CRCS[(crc ^ part[i]) & 255] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
};

const text = (words) => new TextEncoder().encode(words);

/** The bytes of an RGB PNG. `row(y, line)` fills a line of 3 bytes a pixel. */
export async function rgbPng(width, height, row) {
  const stride = 3 * width;
  const packer = new CompressionStream("deflate");
  const packed = new Response(packer.readable).arrayBuffer();
  const writer = packer.writable.getWriter();
  let [line, before] = [new Uint8Array(stride), new Uint8Array(stride)];
  const together = Math.max(1, Math.floor(2 ** 20 / stride));
  for (let top = 0; top < height; top += together) {
    const rows = Math.min(together, height - top);
    const band = new Uint8Array(rows * (1 + stride));
    for (let y = 0, at = 0; y < rows; y++) {
      row(top + y, line);
      band[at++] = 2; // the filter "up": what differs from the row above
      for (let x = 0; x < stride; x++) band[at++] = line[x] - before[x];
      [line, before] = [before, line];
    }
    await writer.write(band);
  }
  await writer.close();
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB, not interlaced
  const chunk = (name, body) => {
    const whole = new Uint8Array(12 + body.length);
    const frame = new DataView(whole.buffer);
    frame.setUint32(0, body.length);
    whole.set(text(name), 4);
    whole.set(body, 8);
    frame.setUint32(8 + body.length, crc32(whole.subarray(4, 8 + body.length)));
    return whole;
  };
  const magic = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return joined([magic, chunk("IHDR", header), chunk("IDAT", new Uint8Array(await packed)), chunk("IEND", text(""))]);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The id map as a PNG: id = R + 256·G + 256²·B. */
export const idPng = ({ ids, width, height }) =>
  rgbPng(width, height, (y, line) => {
    for (let x = 0; x < width; x++) {
      const id = ids[y * width + x];
      line[3 * x] = id & 255;
      line[3 * x + 1] = id >> 8;
    }
  });

/** The name of a photo in the files that are written: ASCII, without its suffix. */
export function storedStem(name) {
  const stem = name.replace(/\.[^.]*$/, "").normalize("NFKD").replace(/\p{M}/gu, "");
  return stem.replace(/[^A-Za-z0-9_-]+/g, "_").replace(/^_+|_+$/g, "").slice(0, 100) || "photo";
}

/** panoptic_val.json of one photo. */
export function panopticJson(map, space, { fileName, pngName, originalName, description }) {
  const image = { id: 1, file_name: fileName, width: map.width, height: map.height };
  if (originalName !== fileName) image.original_file = originalName;
  const segments = map.segments.map(({ id, label, score, area, box }) => ({
    id,
    category_id: label + 1,
    iscrowd: 0,
    area,
    bbox: box,
    score: Math.round(score * 1e4) / 1e4,
    source: "model",
  }));
  const categories = space.map(({ name, supercategory, isthing, color, source }, label) => ({
    id: label + 1,
    name,
    supercategory: supercategory || name,
    isthing: Number(isthing),
    color,
    source,
  }));
  const annotation = { image_id: 1, file_name: pngName, segments_info: segments };
  const info = { description, generator: "the page of hf_detr_panoptic" };
  return JSON.stringify({ info, categories, images: [image], annotations: [annotation] }, null, 1) + "\n";
}

/** A zip of [name, bytes or text], stored as they are: photos and PNGs do not shrink. */
export function zip(files) {
  const [bodies, entries] = [[], []];
  let at = 0;
  for (const [name, content] of files) {
    const body = typeof content === "string" ? text(content) : content;
    const path = text(name);
    const common = new DataView(new ArrayBuffer(26)); // what a file's head and its entry in the list have alike
    common.setUint16(0, 20, true);
    common.setUint16(2, 0x0800, true); // names are UTF-8
    common.setUint16(8, 0x0021, true); // 1 January 1980: equal answers make equal files
    common.setUint32(10, crc32(body), true);
    common.setUint32(14, body.length, true);
    common.setUint32(18, body.length, true);
    common.setUint16(22, path.length, true);
    const shared = new Uint8Array(common.buffer);
    const entry = new DataView(new ArrayBuffer(14));
    entry.setUint32(10, at, true);
    bodies.push(Uint8Array.of(0x50, 0x4b, 3, 4), shared, path, body);
    entries.push(Uint8Array.of(0x50, 0x4b, 1, 2, 20, 0), shared, new Uint8Array(entry.buffer), path);
    at += 30 + path.length + body.length;
  }
  const size = entries.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(18));
  end.setUint16(4, files.length, true);
  end.setUint16(6, files.length, true);
  end.setUint32(8, size, true);
  end.setUint32(12, at, true);
  return joined([...bodies, ...entries, Uint8Array.of(0x50, 0x4b, 5, 6), new Uint8Array(end.buffer)]);
}
