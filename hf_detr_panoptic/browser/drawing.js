// A photo with its segments, as `pictures/draw.py` draws them: filled, outlined, named; void is hatched.

const DARK = [20, 20, 24];
const VOID = [
  [25, 25, 28],
  [225, 225, 228],
];
const SHADES = [0, -0.38, 0.42, -0.2, 0.22, -0.55, 0.6]; // of the second, third, … instance of a class
const [TALLEST, WIDEST, COVERED] = [2.2, 4, 0.4]; // of a label: of the radius, of the radius, of the area

/** A name on one line: marks that are invisible, or turn the reading direction, written out. */
export const visible = (name) =>
  name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (mark) =>
    mark === "\u200c" || mark === "\u200d" ? mark : `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`,
  );

/** The colour of each segment, by id: stuff in its class's own, instances apart, the largest first. */
export function fillsOf(segments, space) {
  const seen = new Map();
  const fills = [null];
  for (const { id, label } of [...segments].sort((a, b) => b.area - a.area)) {
    const turn = seen.get(label) ?? 0;
    seen.set(label, turn + 1);
    const amount = space[label].isthing ? SHADES[turn % SHADES.length] : 0;
    const target = amount > 0 ? 255 : 0;
    fills[id] = space[label].color.map((channel) => Math.round(channel + (target - channel) * Math.abs(amount)));
  }
  return fills;
}

/** The ids of a map at another size: each pixel's nearest. */
export function idsAt({ ids, width, height }, newWidth, newHeight) {
  if (newWidth === width && newHeight === height) return ids;
  const small = new ids.constructor(newWidth * newHeight);
  const columns = Int32Array.from({ length: newWidth }, (_, x) => Math.floor(((x + 0.5) * width) / newWidth));
  for (let y = 0, at = 0; y < newHeight; y++) {
    const row = Math.floor(((y + 0.5) * height) / newHeight) * width;
    for (let x = 0; x < newWidth; x++) small[at++] = ids[row + columns[x]];
  }
  return small;
}

/** Fills and outlines over RGBA pixels, in place. */
export function paint(pixels, ids, width, height, fills) {
  const longest = Math.max(width, height);
  const period = Math.max(3, Math.round(longest / 130));
  const line = Math.max(1, Math.round(longest / 1000));
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const fill = ids[at] ? fills[ids[at]] : VOID[Math.floor((x + y) / period) & 1];
      for (let channel = 0; channel < 3; channel++) {
        pixels[4 * at + channel] = (pixels[4 * at + channel] + fill[channel]) >> 1;
      }
    }
  }
  const square = (x, y) => {
    const before = (line - 1) >> 1;
    for (let down = 0; down < line; down++) {
      const row = Math.min(Math.max(y + down - before, 0), height - 1) * width;
      for (let right = 0; right < line; right++) {
        const at = row + Math.min(Math.max(x + right - before, 0), width - 1);
        for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] = DARK[channel];
      }
    }
  };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (x + 1 < width && ids[at] !== ids[at + 1]) square(ids[at] ? x : x + 1, y);
      if (y + 1 < height && ids[at] !== ids[at + width]) square(x, ids[at] ? y : y + 1);
    }
  }
}

/** By id, a point within each segment that is far from others, how far, and its area: {x, y, radius, area}. */
export function inscribedPoints(ids, width, height) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / 200));
  const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
  const middle = (step - 1) >> 1;
  const cell = (x, y) => ids[Math.min(y * step + middle, height - 1) * width + Math.min(x * step + middle, width - 1)];
  const wide = columns + 2;
  const squares = new Float64Array(wide * (rows + 2)); // 0 at borders; else the squared distance to the nearest
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const id = cell(x, y);
      const alone = (other) => other !== id;
      const border =
        (x > 0 && alone(cell(x - 1, y))) ||
        (x + 1 < columns && alone(cell(x + 1, y))) ||
        (y > 0 && alone(cell(x, y - 1))) ||
        (y + 1 < rows && alone(cell(x, y + 1)));
      if (!border) squares[(y + 1) * wide + x + 1] = 1e12;
    }
  }
  for (let x = 0; x < wide; x++) distances(squares, x, wide, rows + 2);
  for (let y = 0; y < rows + 2; y++) distances(squares, y * wide, 1, wide);
  const best = [];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const point = (best[cell(x, y)] ??= { radius: 0, area: 0 });
      const radius = (Math.sqrt(squares[(y + 1) * wide + x + 1]) + 0.5) * step;
      if (radius > point.radius) Object.assign(point, { x: x * step + middle, y: y * step + middle, radius });
      point.area += step * step;
    }
  }
  return best;
}

/** One line of a distance transform: squared distances along it, the least of (q - p)² + value(p). */
function distances(values, start, stride, count) {
  const given = Float64Array.from({ length: count }, (_, i) => values[start + i * stride]);
  const [places, bounds] = [[0], [-Infinity]];
  for (let q = 1; q < count; q++) {
    const meets = () => {
      const p = places.at(-1);
      return (given[q] + q * q - given[p] - p * p) / (2 * q - 2 * p);
    };
    while (places.length && meets() <= bounds.at(-1)) {
      places.pop();
      bounds.pop();
    }
    bounds.push(places.length ? meets() : -Infinity);
    places.push(q);
  }
  for (let q = 0, k = 0; q < count; q++) {
    while (k + 1 < places.length && bounds[k + 1] <= q) k++;
    values[start + q * stride] = (q - places[k]) ** 2 + given[places[k]];
  }
}

/**
 * Names where they fit, else the class's number, the roomiest first: [{text, size, x, y, width, height, id}].
 * `measure(text, size)` → how wide it is.
 */
export function placedLabels(ids, width, height, segments, space, size, measure) {
  const points = inscribedPoints(ids, width, height);
  const taken = [];
  const small = Math.max(9, Math.round(size * 0.8));
  const turns = segments.filter(({ id }) => points[id]).sort((a, b) => points[b.id].radius - points[a.id].radius);
  for (const { id, label } of turns) {
    const name = [...visible(space[label].name)];
    const short = name.length > 24 ? `${name.slice(0, 23).join("")}…` : name.join("");
    const fits = [short, String(label + 1)].flatMap((word) => [size, small].map((letters) => [word, letters]));
    const found = fits
      .map(([word, letters]) => corner(word, letters, points[id]))
      .find((label) => label);
    if (found) taken.push({ ...found, id });
  }
  return taken;

  function corner(word, letters, { x, y, radius, area }) {
    const tall = Math.round(letters * 1.3);
    if (letters > TALLEST * radius || tall > TALLEST * radius) return null;
    const wide = Math.ceil(measure(word, letters) + letters * 0.6);
    if (wide > width || tall > height || wide > WIDEST * radius || wide * tall > COVERED * area) return null;
    for (const shift of [0, -1, 1, -2, 2]) {
      const offset = Math.round(shift * (tall + 2));
      if (Math.abs(offset) > Math.max(0, radius - tall / 2)) continue;
      const left = Math.min(Math.max(x - (wide >> 1), 0), width - wide);
      const top = Math.min(Math.max(y - (tall >> 1) + offset, 0), height - tall);
      const apart = taken.every(
        (other) =>
          other.x >= left + wide || other.x + other.width <= left || other.y >= top + tall || other.y + other.height <= top,
      );
      if (apart) return { text: word, size: letters, x: left, y: top, width: wide, height: tall };
    }
    return null;
  }
}
