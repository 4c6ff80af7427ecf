// The list of tensors and its order.

import { SIDES } from "../lib/sides.js";
import { LEAST_DB, NAMELESS, clamp, fixed, int, num, quantity, visible } from "../lib/text.js";

export class TensorList {
  ranked = null; // what depends on all tensors, and not on which is shown
  chosen = null; // the same, with the filter
  listed = ""; // what the list was made for

  constructor(page, cache) {
    this.page = page;
    this.cache = cache;
  }

  // Order, gains and what is lacking, made anew when recipes, order or the cache change.
  ranking() {
    const { page, cache } = this;
    const [a, b] = SIDES.map((side) => page.get(`recipe_${side}`));
    const key = [cache.version, a, b, page.get("sort")].join();
    if (this.ranked?.key !== key)
      this.ranked = { key, ...rank(page.get("catalog"), cache, a, b, page.get("sort")) };
    return this.ranked;
  }

  // The ranking with those tensors only that have the filter's words in their names, and the one that is shown.
  filtered() {
    const ranked = this.ranking();
    const here = this.page.get("tensor");
    const filter = this.page.one(".filter").value.trim().toLowerCase();
    const key = [ranked.key, filter, filter && here].join();
    if (this.chosen?.key !== key) {
      const wanted = filter.split(/\s+/);
      const matches = (name) => name === here || wanted.every((w) => name.toLowerCase().includes(w));
      this.chosen = { ...ranked, key, filter, all: ranked.order, order: filter ? ranked.order.filter(matches) : ranked.order };
    }
    return this.chosen;
  }

  // Make the list anew if it changed, and choose what is shown.
  show() {
    const { key } = this.filtered();
    if (key !== this.listed) {
      this.listed = key;
      this.fill();
    }
    this.page.one(".tensor").value = this.page.get("tensor");
  }

  fill() {
    const { page } = this;
    const { order: names, all: order } = this.filtered();
    const select = page.one(".tensor");
    select.replaceChildren(...this.optionsOf(names));
    // a width of its own: a select without one measures all its options anew whenever another is chosen
    select.style.width = `${clamp(Math.max(...order.map((t) => t.length)) + 12, 16, 52)}ch`;
    page.write(".matches", names.length < order.length ? `${names.length} of ${int(order.length)}` : quantity(order.length, "tensor"));
  }

  // Each tensor with A's SQNR
  optionsOf(names) {
    const recipe = this.page.get("recipe_a");
    const skipped = new Map(this.page.get("catalog").tensors.map((t) => [t.name, t.skipped]));
    const one = (name) => {
      const summary = this.cache.summary.get(`${name}|${recipe}`);
      let beside = summary ? ` · ${fixed(summary[0], 1)} dB` : "";
      if (skipped.get(name)) beside = " (skipped)";
      return new Option((visible(name) || NAMELESS) + beside, name); // its value is the name itself, unseen characters and all
    };
    return names.map(one);
  }
}

function rank({ tensors, summary_columns }, cache, a, b, sort) {
  const summaryOf = (tensor, recipe) => cache.summary.get(`${tensor}|${recipe}`);
  const db = (tensor, recipe) => num(summaryOf(tensor, recipe)?.[0]);
  const gain = (tensor) => db(tensor, b) - db(tensor, a);
  const names = tensors.map((t) => t.name);
  const effect = (tensor) => -num(summaryOf(tensor, a)?.[summary_columns.length]); // behind the columns of the strip
  const by = { error: (tensor) => db(tensor, a), gain, effect }[sort];
  const gains = names.map(gain).filter(Number.isFinite);
  return {
    summaryOf,
    order: by ? ordered(names, by) : names,
    lacking: [a, b].filter((recipe) => names.some((tensor) => !summaryOf(tensor, recipe))),
    gains: gains.length,
    better: gains.filter((g) => g >= LEAST_DB).length,
    worse: gains.filter((g) => g <= -LEAST_DB).length,
    layerOf: new Map(tensors.map((t) => [t.name, t.layer])),
  };
}

// The least first, what has no number last
function ordered(names, by) {
  const numbered = names.map((name) => {
    const v = by(name) ?? NaN;
    return [Number.isNaN(v) ? Infinity : v, name];
  });
  numbered.sort(([p], [q]) => (p === q ? 0 : p - q)); // Infinity - Infinity is no number
  return numbered.map(([, name]) => name);
}
