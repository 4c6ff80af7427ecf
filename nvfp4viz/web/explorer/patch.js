// SVG or HTML as text into an element that was drawn before: what stayed as it was is left alone, since a browser lays
// out every new text anew, and that takes longer than all the rest of a drawing.
//
// Understood is what lib/svg.js writes: each element is closed, and holds others or a text.

const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };

// Draw `out` into `place`. `before` is what this returned for the same place, [] for an empty one.
export function patch(place, out, before) {
  const parts = parse(out);
  patchParts(place, parts, before);
  return parts;
}

// The outermost elements as {open, text, parts}; `open` is name and attributes as they are written.
function parse(out) {
  const path = [{ parts: [] }];
  for (const tag of out.split("<").slice(1)) {
    if (tag[0] === "/") {
      path.pop();
      continue;
    }
    const end = tag.indexOf(">");
    const part = { open: tag.slice(0, end), text: tag.slice(end + 1), parts: [] };
    path.at(-1).parts.push(part);
    path.push(part);
  }
  return path[0].parts;
}

function patchParts(place, parts, before) {
  parts.forEach((part, i) => {
    const was = before[i];
    const same = was && nameOf(was) === nameOf(part);
    part.node = same ? was.node : document.createElementNS(place.namespaceURI, nameOf(part));
    if (part.open !== was?.open || !same) setAttributes(part, same ? was : null);
    if (part.text !== (same ? was.text : "")) writeText(part.node, plain(part.text));
    patchParts(part.node, part.parts, same ? was.parts : []);
    if (was && !same) was.node.replaceWith(part.node);
    else if (!was) place.append(part.node);
  });
  for (const { node } of before.slice(parts.length)) node.remove();
}

// Into the text that is there: another one in its place takes a browser longer.
export function writeText(node, content) {
  const only = node.firstChild;
  if (only?.nodeType === 3 && !only.nextSibling && content) only.data = content;
  else node.textContent = content;
}

// Between the quotes of `open` stand the values, before each its name.
function setAttributes(part, was) {
  const now = part.open.split('"');
  const old = was ? was.open.split('"') : [];
  const alike = old.length === now.length && now.every((piece, i) => i % 2 || piece === old[i]);
  if (!alike) for (let i = 0; i + 1 < old.length; i += 2) part.node.removeAttribute(attributeOf(old[i]));
  for (let i = 0; i + 1 < now.length; i += 2)
    if (!alike || now[i + 1] !== old[i + 1]) part.node.setAttribute(attributeOf(now[i]), plain(now[i + 1]));
}

const nameOf = ({ open }) => open.slice(0, (open.indexOf(" ") + 1 || open.length + 1) - 1);
const attributeOf = (piece) => piece.slice(piece.lastIndexOf(" ") + 1, -1); // of `rect x=` or ` y=`
const plain = (escaped) => (escaped.includes("&") ? escaped.replace(/&[#\w]+;/g, (one) => ENTITIES[one]) : escaped);
