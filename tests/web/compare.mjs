// What a page says of pairs of packed sweeps: [[a, b], ...] from stdin, JSON to stdout.
import fs from "node:fs";
import { median, obstacles, pairsOf, sentence } from "../../nvfp4viz/web/report/compare.js";

const found = JSON.parse(fs.readFileSync(0, "utf8")).map(([a, b]) => {
  const pairs = pairsOf(a, b);
  return { pairs, obstacles: obstacles(a, b, pairs), sentence: sentence(pairs), median: median(pairs.map((p) => p.gain)) };
});
const plain = (_, v) => (Number.isFinite(v) || typeof v !== "number" ? v : String(v));
process.stdout.write(JSON.stringify(found, plain));
