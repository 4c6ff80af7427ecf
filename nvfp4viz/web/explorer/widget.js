// What anywidget runs.

import { render } from "./explorer.js";

export default { render };
