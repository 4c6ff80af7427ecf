// Above the figures who wins, below them what was measured by what.

import { markedName } from "../lib/recipe.js";
import { LEAST_DB, fixed, int, num, quantity } from "../lib/text.js";

export function verdict({ sides, gains, better, worse }) {
  const [a, b] = sides.map((s) => num(s.stats.sqnr_db));
  const here = `${whoWins(b - a)} here: ${fixed(b)} against ${fixed(a)} dB`;
  if (gains <= 1) return here;
  const alike = gains - better - worse;
  const rest = alike ? `, ${int(alike)} alike` : "";
  return `${here}<span class="soft"> · of ${int(gains)} tensors B wins ${int(better)}, A ${int(worse)}${rest}</span>`;
}

function whoWins(gain) {
  if (!(Math.abs(gain) >= LEAST_DB)) return "A and B do equally well"; // or one is no number
  const how = gain > 0 ? "better" : "worse";
  return `<b class="b-ink">B</b> is <b>${fixed(Math.abs(gain), 3)} dB</b> ${how} than <b class="a-ink">A</b>`;
}

const sizeOf = ({ tokens, features, blocks }) =>
  `${quantity(tokens, "token")} × ${quantity(features, "feature")}, ${quantity(blocks, "block")}`;

// What was measured, by what
export function provenance({ sides, catalog }) {
  const [a, b] = sides;
  const measured = sides.find((s) => s.stats)?.stats;
  const engines = new Set(sides.map((s) => s.stats?.engine ?? "this page's"));
  const installed = ["nvfp4viz", "torch"].filter((p) => catalog.versions[p]);
  return [
    `A ${markedName(a.name, a.entry.settings)}`,
    `B ${markedName(b.name, b.entry.settings)}`,
    ...(measured ? [sizeOf(measured)] : []),
    `engine ${[...engines].join(", ")}`,
    ...installed.map((p) => `${p} ${catalog.versions[p]}`),
  ].join("  ·  ");
}
