// transformers.js on an exported folder, without a network; started by transformers_js.py, which says what for.
//
//     node transformers_js.mjs MODULES FOLDER SCRATCH ROUNDS   photos in SCRATCH → pixels, answers and maps beside them
//     node transformers_js.mjs MODULES FOLDER SCRATCH          our logits and masks in SCRATCH → maps beside them

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder, scratch, rounds] = process.argv.slice(2);
globalThis.fetch = (address) => Promise.reject(new Error(`asked the network for ${address}`));
const entry = createRequire(join(resolve(modules), "x.js")).resolve("@huggingface/transformers");
const { env, pipeline, Tensor, RawImage } = await import(pathToFileURL(entry));
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder)) + "/";

const threads = { intraOpNumThreads: 1, interOpNumThreads: 1 };
const segment = await pipeline("image-segmentation", basename(resolve(folder)), { session_options: threads });
const processor = segment.processor.image_processor;
const inScratch = (name) => join(scratch, name);
const save = (name, { data }) => writeFileSync(inScratch(name), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
const floats = (name) => new Float32Array(new Uint8Array(readFileSync(inScratch(name))).buffer);
const settings = JSON.parse(readFileSync(inScratch("settings.json")));
const told = {};

for (const photo of readdirSync(scratch).filter((name) => /\.(png|jpg)$/.test(name))) {
  if (rounds) {
    const image = await RawImage.read(inScratch(photo));
    const { pixel_values } = await processor([image]);
    const found = await segment.model({ pixel_values });
    save(`${photo}.pixels`, pixel_values);
    for (const name of ["logits", "pred_boxes", "pred_masks"]) save(`${photo}.${name}`, found[name]);
    const segments = await segment(image, settings);
    const ids = new Int32Array(image.width * image.height);
    segments.forEach(({ mask }, number) => mask.data.forEach((one, at) => one && (ids[at] = number + 1)));
    save(`${photo}.ids`, { data: ids });
    told[photo] = { size: [image.height, image.width], pixels: pixel_values.dims, masks: found.pred_masks.dims };
    told[photo].segments = segments.map(({ label, score }) => [label, score]);
    told[photo].seconds = [];
    for (let round = 0; round < Number(rounds); round++) {
      const started = performance.now();
      await segment(image, settings);
      told[photo].seconds.push((performance.now() - started) / 1000);
    }
  } else {
    const { size, logits, masks } = settings.photos[photo];
    const ours = {
      logits: new Tensor("float32", floats(`${photo}.our_logits`), logits),
      pred_masks: new Tensor("float32", floats(`${photo}.our_masks`), masks),
    };
    const limits = [settings.threshold, settings.mask_threshold, settings.overlap_mask_area_threshold];
    const [{ segmentation, segments_info }] = processor.post_process_panoptic_segmentation(ours, ...limits, null, [size]);
    save(`${photo}.our_ids`, segmentation);
    const names = segment.model.config.id2label;
    told[photo] = { segments: segments_info.map(({ label_id, score }) => [names[label_id], score]) };
  }
}
console.log(JSON.stringify(told));
