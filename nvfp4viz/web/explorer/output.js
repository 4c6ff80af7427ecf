// The view "Output": tensor error beside output error, the frontier, the drift map, the prompts that change most.

import { markedName, settingsOf } from "../lib/recipe.js";
import { esc, int, num, short } from "../lib/text.js";
import { drawDepth, drawDriftMap } from "../views/drift.js";
import { RANKED, drawFrontier, drawRanking } from "../views/output.js";

const PARTS = ["ranking", "frontier", "drift", "prompts"];

export class Output {
  constructor(page, pictures) {
    this.page = page;
    this.pictures = pictures;
  }

  // What Python gave, and by its own prediction of each tensor where no unit was measured
  known(c) {
    const { missing, ...parts } = this.page.get("output");
    if (!parts.ranking && c.catalog.predicted) parts.ranking = predictedRanking(c);
    return { parts, missing };
  }

  // The tab is greyed where it has nothing to show; it says then what it takes.
  dim(tab) {
    const { missing, ...parts } = this.page.get("output");
    const nothing = !Object.keys(parts).length && !this.page.get("catalog").predicted;
    tab.classList.toggle("empty", nothing);
    tab.title = nothing ? `nothing is known of the model's output: ${missing.ranking}` : "";
  }

  draw(c, W) {
    const { page, pictures } = this;
    const { parts, missing } = this.known(c);
    for (const part of PARTS) this.show(part, parts[part] ? "" : `Not given to explore or report: ${missing[part]}.`);
    page.one(".effects").innerHTML = parts.impact ? effects(parts.impact, c) : "";
    if (parts.ranking) {
      page.write(".ranking-words", rankingWords(parts.ranking));
      pictures.put("ranking", drawRanking(c, W, parts.ranking), W);
    }
    if (parts.frontier) {
      page.write(".frontier-words", parts.frontier.sentence);
      page.write(".frontier-about", parts.frontier.about);
      pictures.put("frontier", drawFrontier(W, parts.frontier), W);
    }
    if (parts.drift) {
      pictures.put("depth", drawDepth(W, parts.drift), W);
      pictures.put("drift", drawDriftMap(W, parts.drift), W);
    }
    if (parts.prompts) page.one(".prompt-table").innerHTML = promptTable(parts.prompts);
  }

  // A part that was not given says what it takes.
  show(part, why) {
    const figure = this.page.one(`[data-part="${part}"]`);
    figure.classList.toggle("absent", Boolean(why));
    figure.querySelector(".why").textContent = why;
  }
}

function rankingWords({ rows, recipe, measured }) {
  const few = rows.length > RANKED ? `the first ${RANKED} of ${int(rows.length)}` : int(rows.length);
  const kl = measured ? `; measured is the ${measured}, nats a token` : "; KL in nats a token";
  const kept = rows.some((row) => row.kept) ? "; bold ones are kept" : "";
  const settings = settingsOf(recipe);
  const under = settings ? markedName(recipe, settings) : recipe;
  return `${few} by effect under ${under}; SQNR of the worst input${kl}${kept}`;
}

// Each tensor by the KL that is predicted of it under A, where it was recorded with sensitivity
function predictedRanking({ catalog, sides: [a], summaryOf }) {
  const rows = catalog.tensors.map(({ name }) => {
    const predicted = num(summaryOf(name, a.name)?.[catalog.summary_columns.length]);
    return { name, tensors: [name], predicted, measured: null, kept: false };
  });
  rows.sort((p, q) => (q.predicted || 0) - (p.predicted || 0));
  return { recipe: a.name, measured: "", rows };
}

// The measured KL under A and B, and their difference in the same tokens
function effects({ kl, against, about }, { sides }) {
  const [a, b] = sides.map((s) => s.name);
  const one = ({ side, name }) => {
    const [value, low, high] = kl[name] || [];
    const interval = Number.isFinite(low) ? ` (${short(low, 3)} to ${short(high, 3)})` : "";
    const shown = kl[name] ? short(value, 3) + interval : "not measured";
    return `<b class="${side}-ink">${side.toUpperCase()}</b> ${esc(shown)}`;
  };
  const difference = against[b]?.[a] ? `; B against A ${esc(against[b][a])}` : "";
  return `Measured KL, nats a token: ${sides.map(one).join(", ")}${difference}<br><span class="soft">${esc(about)}</span>`;
}

function promptTable({ agreement, percentiles, rows }) {
  const spread = percentiles.map(([name, kl]) => `${name} ${short(kl, 3)}`).join(", ");
  const row = ([sequence, kl, start]) => `<tr><td>${int(sequence)}</td><td>${short(kl, 3)}</td><td>${esc(start)}</td></tr>`;
  return (
    `<p>${esc(agreement)}. KL in nats by token: ${esc(spread)}.</p>` +
    `<table><thead><tr><th scope="col">sequence</th><th scope="col">KL, nats a token</th><th scope="col">begins</th></tr></thead>` +
    `<tbody>${rows.map(row).join("")}</tbody></table>`
  );
}
