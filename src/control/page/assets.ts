/** The files of the page, which are part of the executable as text. */

import uplotScript from "uplot/dist/uPlot.iife.min.js" with { type: "text" };
import uplotStyle from "uplot/dist/uPlot.min.css" with { type: "text" };
import appScript from "./app.js" with { type: "text" };
import page from "./index.html" with { type: "text" };
import pageStyle from "./style.css" with { type: "text" };

const script = "text/javascript; charset=utf-8";
const style = "text/css; charset=utf-8";

/** By their paths: the text, and its type. */
export const assets = {
  "/": { text: page as unknown as string, type: "text/html; charset=utf-8" },
  "/app.js": { text: appScript, type: script },
  "/style.css": { text: pageStyle, type: style },
  "/uplot.js": { text: uplotScript, type: script },
  "/uplot.css": { text: uplotStyle, type: style },
};
