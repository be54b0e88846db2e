// Mouse, pen and fingers on the slices. A gesture is what happens between a press and its release.

const NOTCH = 50; // pixels: a mouse's wheel gives more at once, a touchpad less, which adds up
const LINE = 40; // pixels of a line, for browsers that count the wheel in lines

/**
 * actions: drawing() whether a tool is chosen; stroke(spot, event) → {move(spot), end(), cancel()} or null;
 * look(voxel): move the crosshair there; range() and setRange([low, high]).
 */
export function handle(canvas, slices, actions) {
  const pointers = new Map();
  let gesture = null;

  const begin = (event) => {
    if (!slices.volume) return;
    canvas.focus({ preventScroll: true });
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size > 1) {
      gesture?.cancel?.();
      gesture = pinch(slices, pointers);
    } else {
      gesture = choose(event, slices, actions);
    }
  };

  const move = (event) => {
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, event);
    // all positions since the last frame: a quick stroke stays round
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) gesture?.move(each);
  };

  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (event.type === "pointercancel") gesture?.cancel?.();
    else gesture?.end?.();
    gesture = null;
  };

  canvas.addEventListener("pointerdown", begin);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", wheel(slices, actions), { passive: false });
}

function choose(event, slices, actions) {
  const spot = slices.under(event);
  if (!spot) return null;
  const following = (act) => ({ move: (next) => follow(slices, next, spot, act) });
  if (event.button === 2) return windowing(event, actions);
  if (event.button === 1) return panning(spot, slices);
  if (event.button !== 0) return null;
  if (actions.drawing(event)) {
    const stroke = actions.stroke(spot, event);
    return stroke && { ...stroke, ...following(stroke.move) };
  }
  if (event.shiftKey) return panning(spot, slices);
  actions.look(spot.voxel);
  return following(({ voxel }) => actions.look(voxel));
}

/** Act at what is under the mouse now, in the slice where the gesture has begun; the scan may have gone meanwhile. */
function follow(slices, event, { tile }, act) {
  const spot = slices.under(event, tile);
  if (spot) act(spot);
}

function panning(start, slices) {
  return { move: (event) => follow(slices, event, start, ({ place }) => slices.pan(start.place, place)) };
}

/** Left and right: narrower and wider; up and down: brighter and darker. */
function windowing({ clientX, clientY }, actions) {
  const [low, high] = actions.range();
  return {
    move: (event) => {
      const width = (high - low) * Math.exp((event.clientX - clientX) / 200);
      const centre = (low + high) / 2 + ((event.clientY - clientY) * (high - low)) / 300;
      actions.setRange([centre - width / 2, centre + width / 2]);
    },
    cancel: () => actions.setRange([low, high]),
  };
}

function pinch(slices, pointers) {
  const measure = () => {
    const [a, b] = [...pointers.values()];
    const middle = { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
    return { middle, distance: Math.max(10, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)) };
  };
  let last = measure();
  const spot = slices.under(last.middle);
  if (!spot) return null;
  return {
    move: () => {
      if (pointers.size !== 2) return;
      const next = measure();
      slices.zoom(next.distance / last.distance, spot.place);
      follow(slices, next.middle, spot, ({ place }) => slices.pan(spot.place, place));
      last = next;
    },
  };
}

function wheel(slices, actions) {
  let turned = 0;
  return (event) => {
    const spot = slices.under(event);
    if (!spot) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? LINE : 1);
    if (event.ctrlKey || event.metaKey) {
      slices.zoom(Math.exp(-Math.max(-NOTCH, Math.min(NOTCH, pixels)) / 250), spot.place);
      return;
    }
    turned = Math.abs(pixels) >= NOTCH ? Math.sign(pixels) * NOTCH : turned + pixels;
    if (Math.abs(turned) < NOTCH) return;
    const voxel = slices.crosshair;
    voxel[spot.axis] -= Math.sign(turned);
    turned = 0;
    actions.look(voxel);
  };
}
