// The quantizer in node over golden cases, read from the file named first: per case a line of JSON (name, settings, M, K,
// encode scale or null, and where its values, codes and scales lie), then the bytes. Prints the differences as JSON.
import fs from "node:fs";
import { quantizeBlock, scalesOf } from "../../nvfp4viz/web/lib/quantize.js";

const [file] = process.argv.slice(2);
const whole = fs.readFileSync(file);
const head = whole.readUInt32LE(0);
const cases = JSON.parse(whole.subarray(4, 4 + head).toString());
const bytes = whole.subarray(4 + head);
const found = { cases: 0, blocks: 0, codes: 0, scales: 0, decode: 0, first: null };

for (const { name, settings, m, k, encode_scale, x, codes, scales, decode } of cases) {
  found.cases++;
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset + x, bytes.byteOffset + x + 4 * m * k));
  const wantedDecode = decode === null ? null : new Float32Array(bytes.buffer.slice(bytes.byteOffset + decode, bytes.byteOffset + decode + 4 * m));
  for (let row = 0; row < m; row++) {
    const token = [...values.subarray(row * k, (row + 1) * k)];
    const amax = token.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    const own = settings.per_token ? scalesOf(amax, settings) : { encode: encode_scale };
    if (wantedDecode && own.decode !== wantedDecode[row]) found.decode++;
    for (let block = 0; block < k / 16; block++) {
      found.blocks++;
      const made = quantizeBlock(token.slice(16 * block, 16 * block + 16), own.encode, amax, settings);
      const wanted = Array.from({ length: 16 }, (_, i) => (bytes[codes + (row * k) / 2 + 8 * block + (i >> 1)] >> (4 * (i & 1))) & 15);
      const differs = made.codes.some((code, i) => code !== wanted[i]);
      if (differs) found.codes++;
      if (made.byte !== bytes[scales + (row * k) / 16 + block]) found.scales++;
      if (differs && !found.first) found.first = { name, row, block, made: made.codes, wanted };
    }
  }
}
console.log(JSON.stringify(found));
