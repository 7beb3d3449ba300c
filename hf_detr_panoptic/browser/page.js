// What a person sees and touches. The work is done in the background, by engine.js.

import { visible } from "./drawing.js";

const $ = (id) => document.getElementById(id);
const page = JSON.parse($("settings").textContent);
const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const percent = (part) => `${(100 * part).toFixed(1)}%`;

function tell(words, problem = "") {
  $("status").textContent = words;
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

// --- the model, set up in the background

const TOO_OLD =
  "This browser is too old for the model. Chrome or Edge 113, Firefox 113, Safari 16.4 or newer can open it.";
// A module whose one function returns a vector of 128 bits.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

function decoded(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** A part of the page: from the page itself or, where it is served, from a file beside it. */
async function part(id) {
  const element = $(id);
  let bytes;
  if (element.dataset.file) {
    const answer = await fetch(element.dataset.file).catch(() => null);
    if (!answer?.ok) {
      const how = location.protocol === "file:" ? " In its folder type: python -m http.server" : "";
      throw new Error(`${element.dataset.file} cannot be read: this page must be served with all of its folder.${how}`);
    }
    bytes = new Uint8Array(await answer.arrayBuffer());
  } else {
    bytes = decoded(element.textContent.trim());
    element.remove();
  }
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes; // a server may have unpacked it
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer()).slice();
}

const waiting = new Map();
let worker = null;
let asked = 0;

function ask(kind, given = {}, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, kind, ...given }, transfer);
  });
}

async function setUp() {
  const modern = globalThis.WebAssembly?.validate(Uint8Array.from(SIMD)) && globalThis.DecompressionStream;
  if (!modern || !globalThis.OffscreenCanvas) throw new Error(TOO_OLD);
  const code = [$("engine").textContent, "\nserve(self);"];
  worker = new Worker(URL.createObjectURL(new Blob(code, { type: "text/javascript" })));
  worker.onmessage = ({ data: { id, answer, problem } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (problem) reject(new Error(problem));
    else resolve(answer);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    const error = new Error(`This browser runs nothing in the background (${event.message || "it does not say why"}).`);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  let parts;
  try {
    parts = await Promise.all(["runtime", "wasm", "detector", "masks"].map(part));
  } catch (error) {
    if (error.message.includes("served")) throw error;
    throw new Error(`This page is damaged: what it carries cannot be unpacked. Get it again. (${error.message})`);
  }
  const [runtime, wasm, detector, masks] = parts;
  const threads = globalThis.crossOriginIsolated ? Math.min(2, navigator.hardwareConcurrency || 1) : 1;
  const buffers = parts.map((bytes) => bytes.buffer);
  return ask("start", { runtime, wasm, detector, masks, page, threads }, buffers);
}

tell("Setting the model up …");
const ready = setUp();
ready.then(
  ({ threads }) => {
    const words = threads > 1 ? `Ready, with ${threads} threads.` : "Ready.";
    if ($("status").textContent.startsWith("Setting")) tell(words);
  },
  (error) => tell("", error.message),
);

// --- a photo

let shown = null; // what the last look gave
let seen = null; // of the photo: name, width, height, milliseconds

async function open(file, called = file.name || "pasted photo") {
  tell(`Looking at ${visible(called)} …`);
  document.body.dataset.busy = "";
  try {
    await ready;
    $("result").hidden = true;
    shown = null;
    [selected, hovered] = [null, null];
    seen = await ask("photo", { file, name: called });
    $("result").hidden = false;
    await look();
  } catch (error) {
    tell("", error.message);
  } finally {
    delete document.body.dataset.busy;
    $("file").value = $("camera").value = "";
  }
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", () => $(id).files[0] && open($(id).files[0]));
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) open(file, file.name);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.dataset.over = "";
});
document.addEventListener("dragleave", (event) => event.relatedTarget || delete document.body.dataset.over);
document.addEventListener("drop", (event) => {
  event.preventDefault();
  delete document.body.dataset.over;
  const file = event.dataTransfer.files[0];
  if (file) open(file);
  else tell("", "That is no file. Save the photo first, and drop the file.");
});
for (const example of document.querySelectorAll("#examples button")) {
  example.addEventListener("click", async () => {
    const source = example.querySelector("img").getAttribute("src");
    const answer = await fetch(source).catch(() => null);
    if (answer?.ok) open(await answer.blob(), source.split("/").at(-1));
    else tell("", `${source} cannot be read.`);
  });
}

// --- its segments

let [wanted, looking] = [false, null];

/** What is shown follows the slider; of looks that wait for their turn only the last one matters. */
function look() {
  wanted = true;
  looking ??= (async () => {
    try {
      while (wanted) {
        wanted = false;
        const stage = $("stage").clientWidth;
        const side = Math.min(1600, Math.max(800, Math.round(stage * Math.min(devicePixelRatio, 2))));
        const threshold = Number($("threshold").value);
        // Letters of 13 pixels of the screen, whatever the picture is shrunk by.
        const shrunk = Math.min(1, side / Math.max(seen.width, seen.height));
        const fits = Math.min(stage / seen.width, (0.78 * innerHeight) / seen.height);
        const letters = Math.round(13 * Math.max(1, shrunk / fits));
        show(await ask("look", { threshold, side, letters, plain: $("plain").checked }));
      }
    } finally {
      looking = null;
    }
  })();
  return looking;
}

function show(answer) {
  shown = { ...answer, pixels: answer.segments.reduce((sum, { area }) => sum + area, answer.voidArea) };
  const { width, height, segments } = shown;
  for (const id of ["picture", "shade"]) [$(id).width, $(id).height] = [width, height];
  $("picture").getContext("2d").drawImage(shown.picture, 0, 0);
  shown.picture.close();
  const classes = new Set(segments.map(({ label }) => label)).size;
  const said = `${count(segments.length, "segment")} of ${count(classes, "class", "classes")}, ${percent(shown.voidArea / shown.pixels)} void`;
  const found = segments.length ? said : "no segment passes this threshold";
  tell(`${visible(seen.name)}: ${found}. ${(seen.milliseconds / 1000).toFixed(2)} s.`);
  $("picture").setAttribute("aria-label", `The photo with ${said}`);
  fillTable();
  if (selected) selected = { ...selected, id: shown.ids[pixelAt(selected.x, selected.y)] };
  hovered = null;
  highlight();
}

const sorted = () => [...shown.segments].sort((a, b) => b.area - a.area);
const pixelAt = (x, y) =>
  Math.min(Math.floor(y * shown.height), shown.height - 1) * shown.width +
  Math.min(Math.floor(x * shown.width), shown.width - 1);

function fillTable() {
  const rows = sorted().map((segment) => {
    const category = page.space[segment.label];
    return row(segment.id, visible(category.name), segment.score.toFixed(2), segment.area, segment.fill, segment.label);
  });
  if (shown.voidArea) rows.push(row(0, "void: nobody knows", "", shown.voidArea, null, null));
  $("segments").tBodies[0].replaceChildren(...rows);
}

function row(id, words, score, area, fill, label) {
  const line = document.createElement("tr");
  line.dataset.id = id;
  const button = document.createElement("button");
  const chip = document.createElement("i");
  if (fill) chip.style.setProperty("background", `rgb(${fill.join(" ")})`);
  else chip.className = "void";
  button.append(chip, words);
  button.type = "button";
  const cells = [button, label === null ? "" : String(label + 1), score, area.toLocaleString("en"), percent(area / shown.pixels)];
  line.append(...cells.map((content) => {
    const cell = document.createElement("td");
    cell.append(content);
    return cell;
  }));
  return line;
}

// --- one of them

let selected = null; // {x, y, id}: where it was clicked, from 0 to 1
let hovered = null; // an id

function highlight() {
  const id = hovered ?? selected?.id ?? null;
  const shade = $("shade").getContext("2d");
  shade.clearRect(0, 0, shown.width, shown.height);
  if (id !== null) {
    const image = shade.createImageData(shown.width, shown.height);
    const quiet = hovered === null ? 0xa6000000 : 0x73000000; // dark, as alpha, blue, green, red
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < pixels.length; at++) pixels[at] = shown.ids[at] === id ? 0 : quiet;
    shade.putImageData(image, 0, 0);
  }
  for (const line of $("segments").tBodies[0].rows) {
    const here = selected !== null && Number(line.dataset.id) === selected.id;
    line.classList.toggle("here", here);
    line.querySelector("button").setAttribute("aria-pressed", here);
  }
  facts();
}

function facts() {
  const told = [];
  if (!selected) told.push(["", "Click the picture or a name: class, score, area and box of that segment appear here."]);
  else if (!selected.id) {
    told.push(["", "void"], ["what", "no segment claims this place"]);
    told.push(["area", `${count(shown.voidArea, "pixel")}, ${percent(shown.voidArea / shown.pixels)} of the photo`]);
  } else {
    const { label, score, area, box } = shown.segments.find(({ id }) => id === selected.id);
    const { name: called, isthing } = page.space[label];
    const [x, y, width, height] = box;
    told.push(["", visible(called)], ["kind", isthing ? "thing" : "stuff"], ["score", score.toFixed(2)]);
    told.push(["area", `${count(area, "pixel")}, ${percent(area / shown.pixels)} of the photo`]);
    told.push(["box", `${width} × ${height} at (${x}, ${y})`]);
  }
  const parts = told.flatMap(([key, value]) => {
    const [term, words] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, words.textContent] = [key, value];
    return key ? [term, words] : [Object.assign(words, { className: selected ? "name" : "hint" })];
  });
  $("facts").replaceChildren(...parts);
}

const place = (event) => {
  const frame = $("picture").getBoundingClientRect();
  return { x: (event.clientX - frame.left) / frame.width, y: (event.clientY - frame.top) / frame.height };
};

$("stage").addEventListener("pointermove", (event) => {
  if (!shown || event.pointerType === "touch") return;
  const { x, y } = place(event);
  const id = shown.ids[pixelAt(Math.max(0, x), Math.max(0, y))];
  const tip = $("tip");
  const segment = shown.segments.find((one) => one.id === id);
  tip.textContent = segment ? `${visible(page.space[segment.label].name)} ${segment.score.toFixed(2)}` : "void";
  tip.hidden = false;
  const stage = $("stage").getBoundingClientRect();
  const left = Math.min(event.clientX - stage.left + 14, stage.width - tip.offsetWidth - 4);
  tip.style.setProperty("translate", `${Math.max(0, left)}px ${event.clientY - stage.top + 16}px`);
  if (id === hovered) return;
  hovered = id;
  highlight();
});
$("stage").addEventListener("pointerleave", () => {
  $("tip").hidden = true;
  hovered = null;
  if (shown) highlight();
});
$("stage").addEventListener("click", (event) => {
  if (!shown) return;
  const { x, y } = place(event);
  select({ x, y, id: shown.ids[pixelAt(x, y)] });
});
$("segments").addEventListener("click", (event) => {
  const line = event.target.closest("tbody tr");
  if (!line) return;
  const id = Number(line.dataset.id);
  const own = [];
  shown.ids.forEach((one, at) => one === id && own.push(at));
  const at = own[own.length >> 1] ?? 0;
  select({ x: ((at % shown.width) + 0.5) / shown.width, y: (Math.floor(at / shown.width) + 0.5) / shown.height, id });
});
$("segments").addEventListener("keydown", (event) => {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  const next = step && event.target.closest("tr")?.[step]?.querySelector("button");
  if (!next) return;
  event.preventDefault();
  next.focus();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && shown && select(null));

function select(one) {
  selected = one && selected?.id === one.id ? null : one;
  highlight();
}

$("threshold").addEventListener("input", () => {
  $("level").textContent = Number($("threshold").value).toFixed(2);
  if (shown) look().catch((error) => tell("", error.message));
});
$("plain").addEventListener("change", () => shown && look().catch((error) => tell("", error.message)));

// --- what one takes home

for (const kind of ["picture", "archive"]) {
  const button = $(`save-${kind}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await looking;
      const { blob, name: called } = await ask(kind);
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: called });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) {
      tell("", error.message);
    } finally {
      button.disabled = false;
    }
  });
}
