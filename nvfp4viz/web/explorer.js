// The explorer's page: draws the statistics that Python computed, and computes none itself.
//
// render({model, el}) is what anywidget calls. mount(el, state, answer) draws the same in a page without Python: `state`
// holds the traits (catalog, summary, statistics, tensor, recipe_a, ...) and what is not in it cannot be had.
// What is missing is asked for with a message {want, id}; the answer {kind, id} is kept, and everything is drawn anew.

const SHOWN = ["tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block"];
const TOLD = ["catalog", "summary", "statistics", "progress", "live"];
const PATIENCE_MS = 120; // an answer that comes sooner is drawn at once: a picture of waiting would only delay it

let instances = 0;

export function render({ model, el }) {
  const uid = `nv4-${++instances}-${Math.random().toString(36).slice(2, 8)}`;
  const get = (name) => model.get(name);
  const set = (values) => {
    for (const [k, v] of Object.entries(values)) model.set(k, v);
    model.save_changes();
  };
  const root = document.createElement("div");
  root.className = "nv4";
  root.innerHTML = skeleton(uid, get("catalog"));
  for (const part of root.querySelectorAll("select, input, button, svg")) part.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrows
  el.append(root);
  const $ = (selector) => root.querySelector(selector),
    $$ = (selector) => [...root.querySelectorAll(selector)];
  const edit = { values: null, column: 0, of: "", asked: "" }; // the microscope's own: a changed value, and which is chosen
  const cursors = {}; // view -> where its cursor stands
  let notice = "",
    queued = false,
    drawn = 0,
    asked = "",
    turned = {};

  const know = new Knowledge(model, (message) => {
    if (message.kind === "refused") [notice, turned] = [message.text, {}];
    else if (message.id && notice === NO_KERNEL) notice = ""; // it was late, not absent
    if (message.id === "recipe") {
      if (message.kind === "stats") set({ [`recipe_${asked}`]: message.recipes[0].name });
      const next = Object.entries(turned);
      turned = {};
      for (const [side, change] of next) turn(side, change);
    }
    later();
  });
  const later = () => {
    if (!queued) {
      queued = true;
      queueMicrotask(() => {
        queued = false;
        draw();
      });
    }
  };

  // the dials
  const recipeOf = (side) => know.recipes.get(get(`recipe_${side}`));
  const same = (p, q) => Object.keys(p).every((k) => p[k] === q[k]);
  function turn(side, change) {
    notice = "";
    const old = recipeOf(side)?.settings;
    if (know.waiting.has("recipe")) turned[side] = { ...turned[side], ...change }; // one at a time
    if (know.waiting.has("recipe") || !old) return;
    const settings = { ...old, scored_as: null, ...change };
    if (!settings.four_over_six) Object.assign(settings, { err_mode: "MAE", err_use_fast_math: false });
    const known = [...know.recipes.values()].find((r) => same(r.settings, settings));
    if (known) set({ [`recipe_${side}`]: known.name });
    else {
      know.refused.delete("recipe");
      know.answers.delete("recipe");
      asked = side;
      know.ask("recipe", { want: "recipe", tensor: get("tensor"), settings });
    }
  }
  function syncDials() {
    for (const side of SIDES) {
      const entry = recipeOf(side);
      if (!entry) continue;
      root.style.setProperty(`--${side}`, entry.color);
      $(`.name.${side}`).textContent = entry.name;
      for (const input of $$(`input[data-dial="${side}"]`)) {
        const value = entry.settings[input.dataset.setting];
        input.checked = String(value) === input.value;
        input.disabled = !entry.settings.four_over_six && ONLY_4OVER6.includes(input.dataset.setting);
      }
      const slider = $(`input[data-slider="${side}"]`),
        values = get("catalog").e4m3;
      if (document.activeElement !== slider || notice)
        slider.value = values.findLastIndex((v) => v <= entry.settings.e4m3_max);
      slider.setAttribute("aria-valuetext", short(entry.settings.e4m3_max));
      $(`output.${side}`).textContent = short(entry.settings.e4m3_max);
    }
  }
  root.addEventListener("input", (event) => {
    const at = event.target;
    if (at.dataset.slider) turn(at.dataset.slider, { e4m3_max: get("catalog").e4m3[at.value] });
    else if (at.matches(".value-slider")) changeValue(Number(at.value));
    else if (at.matches(".filter")) {
      listTensors();
    }
  });
  root.addEventListener("change", (event) => {
    const at = event.target;
    if (at.matches("[type=range]")) return; // "input" came before, and what it was told stays
    notice = "";
    if (at.dataset.dial) {
      const old = recipeOf(at.dataset.dial)?.settings[at.dataset.setting];
      turn(at.dataset.dial, {
        [at.dataset.setting]:
          typeof old === "boolean" ? at.value === "true" : typeof old === "number" ? Number(at.value) : at.value,
      });
    } else if (at.dataset.trait)
      set({
        [at.dataset.trait]: at.value,
        ...(["tensor", "rule", "under"].includes(at.dataset.trait) ? { block: [] } : {}),
      });
    else if (at.matches(".at"))
      set({ block: [Number($(".at-token").value), Math.floor(Number($(".at-column").value) / 16)] });
  });
  root.addEventListener("click", (event) => {
    const at = event.target.closest("button");
    if (!at) return;
    if (at.dataset.view) set({ view: at.dataset.view });
    else if (at.dataset.step) step(Number(at.dataset.step));
    else if (at.matches(".reset")) {
      edit.values = null;
      later();
    }
  });
  $(".tabs").addEventListener("keydown", (event) => {
    const names = Object.keys(VIEWS),
      by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    set({ view: names[(names.indexOf(get("view")) + by + names.length) % names.length] });
    later();
    queueMicrotask(() => $(`button[data-view="${get("view")}"]`).focus());
    event.preventDefault();
  });

  // tensors
  let context = null;
  let all = null; // what depends on all tensors, and not on which is shown
  function ofAll() {
    const tensors = get("catalog").tensors,
      [a, b] = SIDES.map((s) => get(`recipe_${s}`)),
      key = [know.version, a, b, get("sort")].join();
    if (all?.key === key) return all;
    const summaryOf = (t, r) => know.summary.get(`${t}|${r}`),
      db = (t, r) => num(summaryOf(t, r)?.[0]),
      gain = (t) => db(t, b) - db(t, a);
    const by = { error: (t) => db(t, a), gain }[get("sort")],
      names = tensors.map((t) => t.name),
      last = (v) => (Number.isNaN(v ?? NaN) ? Infinity : v);
    const order = by
      ? names
          .map((t) => [last(by(t)), t])
          .sort((p, q) => (p[0] === q[0] ? 0 : p[0] - q[0]))
          .map(([, t]) => t)
      : names;
    const gains = names.map(gain).filter(Number.isFinite),
      lacking = [a, b].filter((r) => names.some((t) => !summaryOf(t, r)));
    all = {
      key,
      summaryOf,
      order,
      lacking,
      gains: gains.length,
      better: gains.filter((g) => g > 0).length,
      worse: gains.filter((g) => g < 0).length,
      layerOf: new Map(tensors.map((t) => [t.name, t.layer])),
    };
    return all;
  }
  let listed = "";
  function listTensors() {
    const here = get("tensor"),
      key = [
        $(".filter").value,
        get("sort"),
        get("recipe_a"),
        get("recipe_b"),
        know.version,
        $(".filter").value && here,
      ].join();
    if (key === listed) {
      $(".tensor").value = here;
      return;
    }
    listed = key;
    const wanted = $(".filter").value.toLowerCase().split(/\s+/),
      all = ofAll().order;
    const names = all.filter((t) => t === here || wanted.every((w) => t.toLowerCase().includes(w)));
    const skipped = new Map(get("catalog").tensors.map((t) => [t.name, t.skipped]));
    $(".tensor").innerHTML = names
      .map((t) => {
        const s = know.summary.get(`${t}|${get("recipe_a")}`);
        return `<option value="${esc(t)}">${esc(t)}${skipped.get(t) ? " (skipped)" : s ? ` · ${fixed(s[0], 1)} dB` : ""}</option>`;
      })
      .join("");
    $(".tensor").value = here;
    // a width of its own: a select without one measures all its options anew whenever another is chosen
    $(".tensor").style.width = `${clamp(Math.max(...all.map((t) => t.length)) + 12, 16, 52)}ch`;
    $(".matches").textContent =
      names.length < all.length ? `${names.length} of ${int(all.length)}` : `${int(all.length)} tensors`;
  }

  // the microscope
  const picksOf = () => know.answers.get(pickKey());
  const askPicks = () =>
    know.ask(pickKey(), {
      want: "picks",
      tensor: get("tensor"),
      recipe: get(`recipe_${get("under")}`),
      rule: get("rule"),
    });
  const pickKey = () => `picks|${get("tensor")}|${get(`recipe_${get("under")}`)}|${get("rule")}`;
  function blockHere() {
    if (get("block").length) return get("block");
    const first = picksOf()?.blocks[0];
    return first ? [first.token, first.block] : null;
  }
  function step(by) {
    const blocks = picksOf()?.blocks || [],
      at = blockHere();
    if (!blocks.length) return;
    const i = blocks.findIndex((p) => at && p.token === at[0] && p.block === at[1]);
    const next = blocks[(i + by + blocks.length) % blocks.length];
    set({ block: [next.token, next.block] });
  }
  function changeValue(v) {
    const look = context?.look;
    if (!look) return;
    edit.values = [...(edit.values || look.stored)];
    edit.values[edit.column] = v;
    later();
  }
  function lookCloser(c) {
    const picks = picksOf(),
      first = picks?.blocks[0],
      pinned = get("block").length > 0;
    if (!pinned && first) set({ block: [first.token, first.block] }); // it stays while dials turn
    if (!picks && pinned) restful("picks", askPicks);
    else if (!picks) askPicks();
    const at = blockHere();
    $(".picked").textContent = picks
      ? picks.blocks.length
        ? `${1 + picks.blocks.findIndex((p) => at && p.token === at[0] && p.block === at[1]) || "–"} of ${picks.blocks.length}${picks.note ? ", " + picks.note : ""}`
        : picks.note
      : "looking …";
    if (!at) return null;
    const [token, block] = at,
      names = c.sides.map((s) => s.name),
      base = `block|${c.tensor}|${token},${block}`;
    if (edit.of !== base) Object.assign(edit, { of: base, values: null });
    const id = `${base}|${names.join("|")}`,
      edited = edit.values && `${id}|${edit.values.join()}`;
    const kept = know.answers.get(id);
    if (!kept) know.ask(id, { want: "block", tensor: c.tensor, block: at, recipes: names });
    let found = kept;
    if (edited) {
      found = know.answers.get(edited) || context?.look;
      if (!know.answers.has(edited) && !know.waiting.has(edit.asked)) {
        // one at a time; the last value wins
        know.answers.delete(edit.asked);
        know.ask((edit.asked = edited), {
          want: "block",
          tensor: c.tensor,
          block: at,
          recipes: names,
          values: edit.values,
        });
      }
    }
    if (!found || !names.every((n) => found.inspections[n])) return null;
    const slider = $(".value-slider"),
      reach = 1.25 * Math.max(...SIDES.map((s, i) => num(found.inspections[names[i]].amax)), 1e-30),
      stored = kept ? kept.stored : found.stored;
    if (document.activeElement !== slider)
      Object.assign(slider, {
        min: -reach,
        max: reach,
        step: reach / 500,
        value: (edit.values || stored)[edit.column],
      });
    $(".value-name").textContent = `value ${block * 16 + edit.column}`;
    $(".value-now").textContent =
      short((edit.values || stored)[edit.column]) + (edit.values ? `, stored ${short(stored[edit.column])}` : "");
    $(".reset").disabled = !edit.values;
    if (document.activeElement !== $(".at-token")) $(".at-token").value = token;
    if (document.activeElement !== $(".at-column")) $(".at-column").value = block * 16;
    $(".where").textContent =
      `token ${int(token)}${found.token_text ? ` “${found.token_text.trim()}”` : ""}, columns ${int(block * 16)}–${int(block * 16 + 15)}`;
    return { ...found, stored, token, block };
  }

  // drawing
  const pictures = {};
  function put(name, picture, W, H) {
    const svg = $(`svg.${name}`),
      h = picture.H || H;
    svg.setAttribute("aria-label", picture.label);
    // beside the svg, not in it: moving it would lay out every dot of hundreds of tensors anew
    for (const [k, v] of Object.entries(picture.frame || {})) svg.previousElementSibling.style[k] = `${v}px`;
    if (picture.key && picture.key === pictures[name]?.key) return;
    svg.setAttribute("viewBox", `0 0 ${W} ${h}`);
    svg.setAttribute("width", W);
    svg.setAttribute("height", h);
    svg.innerHTML = picture.out;
    pictures[name] = picture;
    if (cursors[name] !== undefined) point(name, cursors[name], false);
  }
  function point(name, stop, aloud) {
    const picture = pictures[name],
      svg = $(`svg.${name}`),
      cursor = svg.querySelector(".cursor");
    if (!picture?.point || !cursor) return;
    cursors[name] = stop;
    const found = stop === undefined ? null : picture.point(stop);
    cursor.innerHTML = found ? found.svg : "";
    for (const row of svg.querySelectorAll("[data-row]"))
      row.classList.toggle("on", found?.row !== undefined && row.dataset.row === String(found.row));
    if (aloud && found) $(".said").textContent = found.said;
  }
  for (const svg of $$("svg")) {
    const name = svg.classList[0],
      where = (event) => {
        const box = svg.getBoundingClientRect();
        return [
          ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width,
          ((event.clientY - box.top) * svg.viewBox.baseVal.height) / box.height,
        ];
      };
    svg.addEventListener("pointermove", (event) => {
      if (pictures[name]?.point) point(name, pictures[name].at(...where(event)), false);
    });
    svg.addEventListener("pointerleave", () => point(name, undefined, false));
    svg.addEventListener("blur", () => point(name, undefined, false));
    svg.addEventListener("click", (event) => {
      if (name === "strip" || name === "tensors")
        set({ tensor: context.order[pictures[name].at(...where(event))], block: [] });
      if (name === "microscope" && pictures.microscope) {
        edit.column = pictures.microscope.at(...where(event));
        later();
      }
    });
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key],
        picture = pictures[name];
      if (event.key === "Escape") point(name, undefined, false);
      if ((!by && !["Home", "End"].includes(event.key)) || !picture) return;
      event.preventDefault();
      const move = (i, n) => (event.key === "Home" ? 0 : event.key === "End" ? n - 1 : clamp(i + by, 0, n - 1));
      if (name === "strip" || name === "tensors")
        set({ tensor: context.order[move(context.order.indexOf(get("tensor")), context.order.length)], block: [] });
      else if (name === "microscope") {
        edit.column = move(edit.column, 16);
        later();
      } else if (picture.stops.length)
        point(name, picture.stops[move(picture.stops.indexOf(cursors[name]), picture.stops.length)], true);
    });
  }

  function verdict(sides) {
    const [a, b] = sides.map((s) => num(s.stats.sqnr_db)),
      d = b - a;
    const which = !(Math.abs(d) >= 0.0005)
      ? "A and B do equally well"
      : d > 0
        ? `<b class="b-ink">B</b> is <b>${fixed(d, 3)} dB</b> better than <b class="a-ink">A</b>`
        : `<b class="b-ink">B</b> is <b>${fixed(-d, 3)} dB</b> worse than <b class="a-ink">A</b>`;
    return (
      `${which} here: ${fixed(b)} against ${fixed(a)} dB` +
      (context.gains > 1
        ? `<span class="soft"> · of ${int(context.gains)} tensors B wins ${int(context.better)}, A ${int(context.worse)}</span>`
        : "")
    );
  }

  let since = null; // when the page began to wait for statistics
  function patient() {
    if (since === null) {
      since = performance.now();
      setTimeout(() => since === null || later(), PATIENCE_MS);
    }
    return performance.now() - since < PATIENCE_MS - 1;
  }
  function draw() {
    const W = Math.floor(root.clientWidth),
      catalog = get("catalog"),
      tensor = get("tensor"),
      view = get("view");
    if (W < 50) return;
    syncDials();
    const sides = SIDES.map((side) => {
      const name = get(`recipe_${side}`);
      return { side, name, entry: know.recipes.get(name), stats: know.stats.get(`${tensor}|${name}`) };
    });
    const skipped = catalog.tensors.find((t) => t.name === tensor)?.skipped,
      id = `stats|${tensor}|${sides.map((s) => s.name).join("|")}`;
    const lacking = sides.some((s) => !s.stats || !s.entry);
    if (lacking && !skipped) know.ask(id, { want: "stats", tensor, recipes: sides.map((s) => s.name) });
    const { done = 0, total = 0 } = get("progress");
    const busy = lacking && !know.refused.has(id) && !skipped;
    root.dataset.state = lacking ? (busy ? "waiting" : "without") : "ready";
    if (drawn && busy && patient()) return;
    if (!busy) since = null;
    root.classList.toggle("waits", busy);
    root.classList.toggle("without", lacking && !busy);
    $(".notice").textContent = skipped
      ? `${tensor} was skipped: ${skipped}`
      : lacking && know.refused.has(id)
        ? know.refused.get(id)
        : notice;
    $(".progress").textContent = done < total ? `analysed ${int(done)} of ${int(total)}` : busy ? "computing …" : "";
    for (const button of $$(".tabs button")) {
      const on = button.dataset.view === view;
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
    }
    for (const part of $$("[data-in]")) part.hidden = !part.dataset.in.split(" ").includes(view);
    for (const select of $$("select[data-trait]"))
      if (select.dataset.trait !== "tensor") select.value = get(select.dataset.trait);
    for (const radio of $$("input[data-trait]")) radio.checked = radio.value === get(radio.dataset.trait);
    listTensors();
    if (sides.some((s) => !s.entry)) return;
    context = {
      ...ofAll(),
      catalog,
      sides,
      tensor,
      look: context?.look,
      sort: get("sort"),
      scale: get("scale"),
      span: get("span"),
      version: know.version,
    };
    if (view === "tensors") put("tensors", drawTensors(context, W, Object.keys(LANES), 56, pictures.tensors), W);
    else if (catalog.tensors.length > 1)
      put("strip", drawTensors(context, W, ["sqnr_db", "gain"], 40, pictures.strip), W);
    if (lacking) return;
    const half = W >= 740 ? Math.floor((W - 36) / 2) : W;
    if (view === "overview") {
      put("scales", drawScales(context, W, 324), W, 324);
      put("clipping", drawClipping(context, half), half);
      put("error", drawError(context, half, 290, false), half, 290);
    } else if (view === "scales") put("scales", drawScales(context, W, 460), W, 460);
    else if (view === "clipping") put("clipping", drawClipping(context, W), W);
    else if (view === "error") {
      const parts = `attribution|${tensor}|${sides.map((s) => s.name).join("|")}`;
      if (get("live") && !sides.every((s) => s.stats.attribution))
        know.ask(parts, { want: "attribution", tensor, recipes: sides.map((s) => s.name) });
      context.parts = know.answers.get(parts)?.shares;
      put("error", drawError(context, W, 460, true), W, 460);
    } else if (view === "microscope") {
      const look = lookCloser(context);
      if (look) {
        context.look = look;
        put(
          "microscope",
          drawBlock(context, Math.max(W, BLOCK_NARROWEST), look, edit.column),
          Math.max(W, BLOCK_NARROWEST),
        );
        root.dataset.block = [look.token, look.block];
      }
    }
    $(".verdict").innerHTML = verdict(sides);
    const s = sides[0].stats,
      engines = [...new Set(sides.map((q) => q.stats.engine))].join(", ");
    $("footer").textContent = [
      `A ${sides[0].name}`,
      `B ${sides[1].name}`,
      `${int(s.tokens)} tokens × ${int(s.features)} features, ${int(s.blocks)} blocks`,
      `engine ${engines}`,
      ...["nvfp4viz", "torch"].filter((p) => catalog.versions[p]).map((p) => `${p} ${catalog.versions[p]}`),
    ].join("  ·  ");
    const { lacking: recipes } = context;
    if (recipes.length && done >= total && get("live"))
      restful("sweep", () => {
        for (const recipe of recipes) know.ask(`sweep|${recipe}`, { want: "sweep", recipe });
      });
    Object.assign(root.dataset, { tensor, a: sides[0].name, b: sides[1].name, view, drawn: ++drawn });
  }
  const rests = {};
  function restful(what, act) {
    // once the dials rest
    clearTimeout(rests[what]);
    rests[what] = setTimeout(act, 400);
  }

  const told = () => {
    know.read();
    later();
  };
  for (const name of SHOWN) model.on(`change:${name}`, later);
  for (const name of TOLD) model.on(`change:${name}`, told);
  const resized = new ResizeObserver(later);
  resized.observe(root);
  if (get("live")) model.send({ want: "hello" });
  draw();
  return () => {
    resized.disconnect();
    know.stop();
    for (const timer of Object.values(rests)) clearTimeout(timer);
    for (const name of SHOWN) model.off(`change:${name}`, later);
    for (const name of TOLD) model.off(`change:${name}`, told);
  };
}

// The same in a page without Python: `state` holds the traits, `answer` replies to {want, ...}, or gives null: cannot be had.
export function mount(el, state, answer = () => null) {
  const heard = new Map(),
    traits = {
      view: "overview",
      scale: "linear",
      span: "data",
      sort: "layer",
      rule: "gained",
      under: "b",
      block: [],
      summary: {},
      statistics: {},
      progress: {},
      live: false,
      ...state,
    };
  const tell = (event, value) => {
    for (const f of heard.get(event) || []) f(value);
  };
  const model = {
    get: (name) => traits[name],
    set: (name, value) => {
      if (traits[name] !== value) {
        traits[name] = value;
        tell(`change:${name}`, value);
      }
    },
    save_changes() {},
    on: (event, f) => heard.set(event, [...(heard.get(event) || []), f]),
    off: (event, f) =>
      heard.set(
        event,
        (heard.get(event) || []).filter((g) => g !== f),
      ),
    send: (message) =>
      queueMicrotask(() =>
        tell("msg:custom", {
          id: message.id,
          ...(answer(message) || {
            kind: "refused",
            text: "This page holds recorded results only: that needs a notebook, nvfp4viz.explore(activations).",
          }),
        }),
      ),
  };
  return { model, stop: render({ model, el }) };
}

export default { render };
