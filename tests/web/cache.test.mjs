// What a page waits for, and that it does not wait for ever.
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Cache, NO_KERNEL } from "../../nvfp4viz/web/explorer/cache.js";

function model() {
  const listeners = new Map();
  const traits = { catalog: { summary_columns: [], recipes: [] }, statistics: "", summary: {}, live: true };
  return {
    sent: [],
    listeners,
    get: (name) => traits[name],
    on: (event, listener) => listeners.set(event, listener),
    off: (event) => listeners.delete(event),
    send(message) {
      this.sent.push(message);
    },
  };
}

test("without an answer a question is refused, and after the kernel's return it is asked again", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const kernel = model();
  const changes = [];
  const cache = new Cache(kernel, (message) => changes.push(message.kind));
  const ask = () => cache.ask("picks", { want: "picks" });
  const questions = () => kernel.sent.filter(({ want }) => want === "picks").length;
  ask();
  ask();
  assert.equal(questions(), 1);
  mock.timers.tick(4000);
  assert.equal(cache.refused.get("picks"), NO_KERNEL);
  kernel.listeners.get("comm_live_update")();
  ask();
  assert.equal(questions(), 2);
  kernel.listeners.get("msg:custom")({ kind: "working", id: "picks" });
  mock.timers.tick(60_000); // it may take its time
  assert.ok(cache.waiting.has("picks"));
  kernel.listeners.get("comm_live_update")(); // the kernel died over it
  ask();
  mock.timers.tick(4000);
  assert.equal(cache.refused.get("picks"), NO_KERNEL);
  assert.deepEqual(changes, ["refused", undefined, undefined, "refused"]);
  cache.stop();
  assert.equal(kernel.listeners.size, 0);
  mock.timers.reset();
});

test("where Jupyter throws since the kernel is gone, a question is refused and nothing is thrown", async () => {
  const kernel = model();
  kernel.send = () => {
    throw new Error("Cannot send");
  };
  const cache = new Cache(kernel, () => {});
  cache.ask("picks", { want: "picks" });
  await Promise.resolve();
  assert.equal(cache.refused.get("picks"), NO_KERNEL);
  assert.equal(cache.waiting.size, 0);
  cache.stop();
});
