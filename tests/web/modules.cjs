// What the modules of nvfp4viz/web declare, import, export and use: node --expose-internals modules.cjs FOLDER
// prints {file: {imports, exports, unresolved, unused}} as JSON. The parser is the one inside node.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const acorn = require("internal/deps/acorn/acorn/dist/acorn");

const FUNCTIONS = ["FunctionDeclaration", "FunctionExpression", "ArrowFunctionExpression"];
const isNode = (value) => value && typeof value.type === "string";
const children = (node) => Object.values(node).flat().filter(isNode);

// Names that a pattern binds
function bound(pattern) {
  if (!pattern) return [];
  if (pattern.type === "Identifier") return [pattern.name];
  if (pattern.type === "ObjectPattern") return pattern.properties.flatMap((p) => bound(p.value || p.argument));
  if (pattern.type === "ArrayPattern") return pattern.elements.flatMap(bound);
  if (pattern.type === "AssignmentPattern") return bound(pattern.left);
  return pattern.type === "RestElement" ? bound(pattern.argument) : [];
}

// What a block declares itself
function declared(body) {
  return body.flatMap((statement) => {
    const node = statement.declaration || statement;
    if (node.type === "VariableDeclaration") return node.declarations.flatMap((d) => bound(d.id));
    return /^(Function|Class)Declaration$/.test(node.type) && node.id ? [node.id.name] : [];
  });
}

// Visit every name that is used, with the scopes it is used in, the innermost first. A scope is name -> times used.
function visit(node, scopes, use) {
  const inner = (names) => [new Map(names.map((name) => [name, 0])), ...scopes];
  const all = (nodes, around = scopes) => nodes.filter(Boolean).forEach((n) => visit(n, around, use));
  if (FUNCTIONS.includes(node.type)) {
    const own = node.type === "FunctionExpression" && node.id ? [node.id.name] : [];
    const around = inner([...node.params.flatMap(bound), ...own]);
    for (const { type, name } of node.params) if (type === "Identifier") around[0].set(name, 1); // it holds a place
    all([...node.params.flatMap(patternParts), node.body], around);
    return ended(around[0], use);
  }
  if (node.type === "BlockStatement" || node.type === "StaticBlock") {
    const around = inner(declared(node.body));
    all(node.body, around);
    return ended(around[0], use);
  }
  if (/^For/.test(node.type)) {
    const around = inner(declared([node.init || node.left].filter(Boolean)));
    all(children(node), around);
    return ended(around[0], use);
  }
  if (node.type === "CatchClause") return all([node.param, node.body], inner(bound(node.param)));
  if (node.type === "MemberExpression") return all([node.object, node.computed && node.property]);
  if (node.type === "Property" || node.type === "PropertyDefinition" || node.type === "MethodDefinition")
    return all([node.computed && node.key, node.value]);
  if (node.type === "VariableDeclarator") return all([...patternParts(node.id), node.init]);
  if (/Declaration$/.test(node.type) && node.type.startsWith("Import")) return undefined;
  if (node.type === "ClassDeclaration") return all([node.superClass, node.body]);
  if (node.type === "Identifier") return use(node.name, scopes);
  return all(children(node));
}

// What is evaluated in a pattern: defaults and computed keys
function patternParts(pattern) {
  if (pattern.type === "AssignmentPattern") return [...patternParts(pattern.left), pattern.right];
  if (pattern.type === "ObjectPattern")
    return pattern.properties.flatMap((p) => [p.computed && p.key, ...patternParts(p.value || p.argument)]);
  if (pattern.type === "ArrayPattern") return pattern.elements.filter(Boolean).flatMap(patternParts);
  return pattern.type === "RestElement" ? patternParts(pattern.argument) : [];
}

function ended(scope, use) {
  for (const [name, times] of scope) if (!times && !name.startsWith("_")) use.unused.add(name);
}

function report(file) {
  const tree = acorn.parse(fs.readFileSync(file, "utf8"), { ecmaVersion: "latest", sourceType: "module" });
  const imports = tree.body.filter((n) => n.type === "ImportDeclaration");
  const imported = imports.flatMap((n) => n.specifiers.map((s) => [s.local.name, n.source.value]));
  const exported = tree.body.filter((n) => n.type === "ExportNamedDeclaration").flatMap((n) => declared([n]));
  const scope = new Map([...imported.map(([name]) => name), ...declared(tree.body)].map((name) => [name, 0]));
  const free = new Set();
  const use = (name, scopes) => {
    const owner = scopes.find((s) => s.has(name));
    if (owner) owner.set(name, owner.get(name) + 1);
    else free.add(name);
  };
  use.unused = new Set();
  visit(tree, [scope], use);
  for (const name of exported) scope.set(name, 1);
  ended(scope, use);
  return { imports: imported, exports: exported, unresolved: [...free], unused: [...use.unused] };
}

const [folder] = process.argv.slice(2);
const files = fs.readdirSync(folder, { recursive: true }).filter((f) => f.endsWith(".js"));
const posix = (f) => f.split(path.sep).join("/");
console.log(JSON.stringify(Object.fromEntries(files.sort().map((f) => [posix(f), report(path.join(folder, f))]))));
