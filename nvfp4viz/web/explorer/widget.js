// What anywidget runs.

import { render } from "./explorer.js";

// In a row of widgets it shares the width; by itself it would have none there, since its size comes from outside.
function renderWidget({ model, el }) {
  el.classList.add("nv4-host");
  return render({ model, el });
}

export default { render: renderWidget };
