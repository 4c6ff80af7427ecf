// Reports that are dropped on a page, or chosen there, are compared in it; nothing leaves the page.

import { median, obstacles, pairsOf, sentence } from "./compare.js";
import { unpacked } from "../explorer/packed.js";
import { esc, fixed, int, short } from "../lib/text.js";

const LISTED = 8; // tensors under what got worse, and under what got better
const difference = (v) => (v > 0 ? "+" : "") + short(v, 2); // of two digits, so that none reads as 0
const FORMAT = "nvfp4viz-report-1";
const DATA = /<script type="application\/gzip" id="sweep">([A-Za-z0-9+/=]+)<\/script>/;

async function reportIn(file) {
  const [, text] = DATA.exec(await file.text()) || [];
  const data = text && (await unpacked(text));
  if (data?.format !== FORMAT) throw new Error(`${file.name} is no report of this version of nvfp4viz`);
  return { name: file.name, data };
}

// `mine`: {name, data} of the page's own report, null where it has none
export function acceptReports(mine) {
  const place = document.getElementById("compared");
  const compare = async (files) => {
    try {
      if (files.length > 2) throw new Error(`${files.length} files: two are compared, A and B`);
      const reports = await Promise.all([...files].map(reportIn));
      const [a, b] = reports.length === 1 && mine ? [mine, reports[0]] : reports;
      if (!b) throw new Error("one report alone: drop two, or one on a report");
      place.innerHTML = page(a, b);
    } catch ({ message }) {
      place.innerHTML = `<p class="note">Not compared: ${esc(message)}.</p>`;
    }
    place.scrollIntoView({ block: "nearest" });
  };
  document.getElementById("reports").addEventListener("change", ({ target }) => compare(target.files));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) compare(event.dataTransfer.files);
  });
}

function page(a, b) {
  const pairs = pairsOf(a.data, b.data);
  const lines = obstacles(a.data, b.data, pairs);
  const comparable = lines.length
    ? `<ul class="note">${lines.map((line) => `<li>${esc(line)}</li>`).join("")}</ul>`
    : "<p>Comparable: the same tensors and recipes, and the same values in them as far as their sums tell.</p>";
  const byGain = [...pairs].sort((p, q) => p.gain - q.gain);
  const worse = byGain.filter((p) => p.change === "worse");
  const better = byGain.reverse().filter((p) => p.change === "better");
  return (
    `<h3>A: ${esc(a.name)}<br>B: ${esc(b.name)}</h3>${comparable}<p><b>${esc(sentence(pairs))}</b></p>` +
    recipesTable(pairs) +
    listed("What got worse", worse) +
    listed("What got better", better) +
    `<p class="note">SQNR of ${pairs.some((p) => p.whole) ? "whole tensors" : "a typical token"}. <code>nvfp4viz report a.html b.html</code> adds intervals.</p>`
  );
}

// A recipe's name, and what stands against running it
const marked = ({ recipe, study }) =>
  esc(recipe) + (study ? ` <em class="study" title="${esc(study)}">study only</em>` : "");

// Under each recipe the median, and the ends
function recipesTable(pairs) {
  const names = [...new Set(pairs.map((p) => p.recipe))];
  const row = (name) => {
    const those = pairs.filter((p) => p.recipe === name);
    const gains = those.map((p) => p.gain).filter((gain) => !Number.isNaN(gain));
    const ends = gains.length ? [Math.min(...gains), median(gains), Math.max(...gains)] : [NaN, NaN, NaN];
    return `<tr><th scope="row">${marked(those[0])}</th>${ends.map((v) => `<td>${difference(v)}</td>`).join("")}</tr>`;
  };
  const heads = ["B − A in dB", "least", "median", "most"].map((head) => `<th scope="col">${head}</th>`);
  return `<div class="scroll" tabindex="0"><table class="plain"><thead><tr>${heads.join("")}</tr></thead><tbody>${names.map(row).join("")}</tbody></table></div>`;
}

function listed(title, pairs) {
  const one = (p) => `<li><b>${difference(p.gain)} dB</b>: ${esc(p.tensor)} under ${marked(p)}, ${fixed(p.before, 3)} to ${fixed(p.after, 3)} dB</li>`; // prettier-ignore
  if (!pairs.length) return `<h3>${title}</h3><p>Nothing.</p>`;
  const more = pairs.length > LISTED ? `<p class="note">and ${int(pairs.length - LISTED)} more</p>` : "";
  return `<h3>${title}</h3><ol class="worse">${pairs.slice(0, LISTED).map(one).join("")}</ol>${more}`;
}
