// Blocks as the page's microscope sees them: reads [{values, amax, settings, name}], prints a list of answers.
import fs from "node:fs";
import { inspectBlock } from "../../nvfp4viz/web/lib/quantize.js";

const asked = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const written = (_, v) => (typeof v === "number" && !Number.isFinite(v) ? String(v).replace("Infinity", "inf").replace("NaN", "nan") : v);
console.log(JSON.stringify(asked.map((q) => inspectBlock(q.values, q.amax, q.name, q.settings)), written));
