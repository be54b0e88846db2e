// What a key does; the list that the user sees is in panel.js.

import { TOOLS } from "./panel.js";

// axis and direction: the patient's right is at the left of the screen, and RAS+ counts to the right
const MOVES = {
  ArrowLeft: [0, 1],
  ArrowRight: [0, -1],
  ArrowUp: [1, 1],
  ArrowDown: [1, -1],
  PageUp: [2, 1],
  PageDown: [2, -1],
};

/** The action of a key event, as a function; null: none. */
export function actionOf(event, workbench) {
  if (event.altKey || event.target.matches("input, select")) return null;
  if (event.ctrlKey || event.metaKey) return ofHistory(event, workbench.editor);
  return ofLooking(event.key, workbench) ?? (workbench.editor.allowed ? ofDrawing(event.key, workbench.editor) : null);
}

function ofHistory({ key, shiftKey }, editor) {
  const letter = key.toLowerCase();
  if (letter === "z") return () => editor.travel(shiftKey ? "redo" : "undo");
  return letter === "y" ? () => editor.travel("redo") : null;
}

function ofLooking(key, { slices, panel, look }) {
  if (key === "+" || key === "=") return () => slices.zoom(1.25);
  if (key === "-") return () => slices.zoom(0.8);
  if (key === "?") return () => panel.toggleHelp();
  if (!MOVES[key]) return null;
  const [axis, by] = MOVES[key];
  const voxel = slices.crosshair;
  voxel[axis] += by;
  return () => look(voxel);
}

function ofDrawing(key, editor) {
  const tool = TOOLS.find((each) => each.key === key.toLowerCase());
  if (tool) return () => editor.set({ tool: tool.name });
  if (key === "[" || key === "]") return () => editor.resize(key === "]" ? 1 : -1);
  return editor.structures[key - 1] ? () => editor.set({ active: key - 1 }) : null;
}
