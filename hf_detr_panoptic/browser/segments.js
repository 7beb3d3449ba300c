// From logits to segments at the photo's own size: what `model/postprocess.py` does.

const logit = (probability) =>
  probability <= 0 ? -Infinity : probability >= 1 ? Infinity : Math.log(probability / (1 - probability));

/**
 * The queries surer than `threshold`, in the order of queries: {queries, labels, scores}.
 * logits: [queries, columns], "no object" last; space: categories, each with its logit `column`.
 */
export function chosenQueries(logits, columns, space, threshold) {
  const labelOf = new Int32Array(columns).fill(-1);
  space.forEach((category, label) => (labelOf[category.column] = label));
  const kept = { queries: [], labels: [], scores: [] };
  for (let query = 0; query * columns < logits.length; query++) {
    const row = logits.subarray(query * columns, (query + 1) * columns);
    let best = 0;
    for (let column = 0; column < columns; column++) {
      if (!Number.isFinite(row[column])) throw new Error("The model's answer holds NaN or infinity.");
      if (row[column] > row[best]) best = column;
    }
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += Math.exp(row[column] - row[best]);
    const score = Math.fround(1 / sum);
    if (labelOf[best] < 0 || !(score > Math.fround(threshold))) continue;
    kept.queries.push(query);
    kept.labels.push(labelOf[best]);
    kept.scores.push(score);
  }
  return kept;
}

/** Those of `kept`, with their masks, that a higher threshold keeps, too. */
export function above(kept, masks, threshold) {
  const staying = [...kept.scores.keys()].filter((index) => kept.scores[index] > Math.fround(threshold));
  return at(kept, masks, staying);
}

function at(kept, masks, staying) {
  const chosen = Object.fromEntries(
    Object.entries(kept).map(([key, values]) => [key, staying.map((index) => values[index])]),
  );
  return [chosen, { ...masks, list: staying.map((index) => masks.list[index]) }];
}

/** The indices that stay where things of a class cover one another, the surest query first. */
export function withoutDuplicates(kept, masks, space, settings) {
  const all = [...kept.labels.keys()];
  if (settings.duplicate >= 1) return all;
  const limit = Math.fround(logit(settings.mask_threshold));
  const overlap = (one, other) => {
    let [shared, either] = [0, 0];
    for (let cell = 0; cell < one.length; cell++) {
      const [a, b] = [one[cell] > limit, other[cell] > limit];
      shared += a && b;
      either += a || b;
    }
    return Math.fround(shared / Math.max(either, 1));
  };
  const staying = [];
  for (const index of all.sort((a, b) => kept.scores[b] - kept.scores[a])) {
    const label = kept.labels[index];
    const rivals = staying.filter((other) => kept.labels[other] === label && space[label].isthing);
    const bound = Math.fround(settings.duplicate);
    if (!rivals.some((other) => overlap(masks.list[index], masks.list[other]) > bound)) staying.push(index);
  }
  return staying.sort((a, b) => a - b);
}

/**
 * Every segment of a photo, and whose each pixel is.
 * masks: {list: logits [h, w] of each of `kept`, height, width}; → {ids, width, height, segments, voidArea}, ids 0 for
 * void; a segment is {id, label, score, area, box: [x, y, width, height]}.
 */
export function panopticMap(kept, masks, space, [height, width], settings) {
  [kept, masks] = at(kept, masks, withoutDuplicates(kept, masks, space, settings));
  const count = kept.labels.length;
  const limit = settings.fill === "argmax" ? -Infinity : logit(settings.mask_threshold);
  const owners = count < 255 ? new Uint8Array(height * width) : new Uint16Array(height * width);
  const everyone = [...Array(count).keys()];
  const winners = rowPainter(masks, height, width, limit);
  const areas = new Float64Array(count + 1);
  for (let y = 0; y < height; y++) {
    const row = owners.subarray(y * width, (y + 1) * width);
    winners(everyone, y, row);
    for (let x = 0; x < width; x++) areas[row[x]]++;
  }

  const firsts = new Map();
  const groups = kept.labels.map((label, index) => {
    if (space[label].isthing) return index;
    if (!firsts.has(label)) firsts.set(label, index);
    return firsts.get(label);
  });
  const groupAreas = new Float64Array(count);
  groups.forEach((group, index) => (groupAreas[group] += areas[index + 1]));
  const small = [false, ...groups.map((group) => groupAreas[group] < settings.min_area)];
  if (small.some((is, owner) => is && areas[owner])) {
    // Nobody else loses a pixel when these leave, so the others only grow: one round is enough.
    const heirs = everyone.filter((index) => !small[index + 1]);
    const heir = new owners.constructor(width);
    for (let y = 0; y < height; y++) {
      const row = owners.subarray(y * width, (y + 1) * width);
      if (!row.some((owner) => small[owner])) continue;
      heir.fill(0);
      winners(heirs, y, heir);
      for (let x = 0; x < width; x++) {
        if (!small[row[x]]) continue;
        areas[row[x]]--;
        areas[heir[x]]++;
        row[x] = heir[x];
      }
    }
  }
  return { ...numbered(owners, areas, groups, kept, height, width), width, height };
}

/**
 * `(indices, y, row)`: into the row of the photo goes 1 + the index of the mask with the highest logit above the limit.
 * Bilinear, as torch's `interpolate` without aligned corners. Values between two cells never exceed both, so a mask
 * that is under the limit in both cannot win between them.
 */
function rowPainter(masks, height, width, limit) {
  const cells = masks.width;
  const line = new Float32Array(masks.list.length * cells);
  const left = new Int32Array(width);
  const weight = new Float64Array(width);
  for (let x = 0; x < width; x++) {
    const source = Math.max(0, (x + 0.5) * (cells / width) - 0.5);
    left[x] = Math.min(Math.floor(source), cells - 1);
    weight[x] = source - left[x];
  }
  const candidates = [];
  return (indices, y, row) => {
    const source = Math.min(Math.max((y + 0.5) * (masks.height / height) - 0.5, 0), masks.height - 1);
    const upper = Math.floor(source);
    const lower = Math.min(upper + 1, masks.height - 1);
    for (const index of indices) {
      const mask = masks.list[index];
      for (let cell = 0; cell < cells; cell++) {
        const value = mask[upper * cells + cell];
        line[index * cells + cell] = value + (source - upper) * (mask[lower * cells + cell] - value);
      }
    }
    for (let x = 0; x < width; ) {
      const cell = left[x];
      const next = Math.min(cell + 1, cells - 1);
      candidates.length = 0;
      for (const index of indices) {
        const from = index * cells;
        if (line[from + cell] > limit || line[from + next] > limit) candidates.push(index);
      }
      for (; x < width && left[x] === cell; x++) {
        let [highest, owner] = [limit, 0];
        for (let i = 0; i < candidates.length; i++) {
          const from = candidates[i] * cells;
          const value = (1 - weight[x]) * line[from + cell] + weight[x] * line[from + next];
          if (value > highest) [highest, owner] = [value, candidates[i] + 1];
        }
        row[x] = owner;
      }
    }
  };
}

/** Owners become ids 1, 2, …, those of a group one; owners is written over. */
function numbered(owners, areas, groups, kept, height, width) {
  const segments = [];
  const idOf = new owners.constructor(kept.labels.length + 1);
  for (const first of new Set(groups)) {
    const members = [...groups.keys()].filter((index) => groups[index] === first);
    const area = members.reduce((sum, index) => sum + areas[index + 1], 0);
    if (!area) continue;
    const score = members.reduce((sum, index) => sum + areas[index + 1] * kept.scores[index], 0) / area;
    segments.push({ id: segments.length + 1, label: kept.labels[first], score: Math.min(score, 1), area });
    for (const index of members) idOf[index + 1] = segments.length;
  }
  const [lefts, tops] = [0, 0].map(() => new Int32Array(segments.length + 1).fill(2 ** 30));
  const [rights, bottoms] = [0, 0].map(() => new Int32Array(segments.length + 1));
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const id = (owners[at] = idOf[owners[at]]);
      if (x < lefts[id]) lefts[id] = x;
      if (x > rights[id]) rights[id] = x;
      if (y < tops[id]) tops[id] = y;
      bottoms[id] = y;
    }
  }
  for (const segment of segments) {
    const [x, y] = [lefts[segment.id], tops[segment.id]];
    segment.box = [x, y, rights[segment.id] - x + 1, bottoms[segment.id] - y + 1];
  }
  return { ids: owners, segments, voidArea: areas[0] };
}
