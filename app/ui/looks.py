"""How the page looks and answers keys and the mouse: theme, CSS, a few lines of JavaScript. Nothing is fetched."""

import gradio as gr

FONTS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]

THEME = gr.themes.Base(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    font=FONTS,
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_shadow="none",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    input_background_fill="white",
    input_background_fill_dark="*neutral_800",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_700",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_600",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
    button_secondary_background_fill="white",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_background_fill_hover_dark="*neutral_700",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_700",
    button_border_width="1px",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_400",
    slider_color="*primary_600",
    slider_color_dark="*primary_500",
)

CSS = """
.gradio-container { max-width: 1800px !important; margin: auto;
  overflow: clip !important; }  /* hidden, gradio's own, lets nothing inside it stick */
#columns { align-items: flex-start; }
@media (min-width: 1100px) {
  #bench { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; flex-wrap: nowrap; }
  #bench > * { flex: none; }
}
.gradio-container h1 { margin: 0; letter-spacing: -0.02em; }
#head { align-items: center; }
#head p { margin: 2px 0 0; color: var(--body-text-color-subdued); }
#mode { flex: none; min-width: 9rem; }
#notice { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.step h2 { margin: 1rem 0 0 !important; padding-bottom: 4px; font-size: var(--text-xl);
  border-bottom: 2px solid var(--primary-600); }
.said { padding: 0 !important; }
.said p { margin: 2px 0; padding: 5px 12px; border-left: 4px solid var(--neutral-400); }
.said summary { padding: 5px 12px; cursor: pointer; }
.said p.good { border-color: #009e73; }
.said p.warn { border-color: #e69f00; }
.said p.bad { border-color: #d55e00; }
#status { min-height: 3.2rem; }
#structures .table { max-height: 420px; overflow: auto; }
#structures table { width: 100%; border: 0; border-collapse: collapse;
  font-variant-numeric: tabular-nums; }
#structures th, #structures td { padding: 6px 8px; text-align: right; border: 0; }
#structures tr { border: 0; border-bottom: 1px solid var(--border-color-primary); }
#structures th { position: sticky; top: 0; background: var(--block-background-fill);
  font-weight: 600; font-size: var(--text-sm); }
#structures p { margin: 8px; font-size: var(--text-sm); }
#structures th:first-child, #structures td:first-child {
  text-align: left; min-width: 8rem; }
#structures td.low { color: #d55e00; font-weight: 600; }
.said i, #structures i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 8px; }
button[role="tab"].selected, .download-link { color: var(--link-text-color) !important; }
.picture img { cursor: crosshair; }
.picture label { color: #e2e8f0 !important; background: rgb(0 0 0 / 0.4) !important; }
#samples { align-items: center; }
#downloads .label-clear-button, #extras .label-clear-button, #views .label-clear-button { display: none; }
#scans .grid-wrap { height: auto; }
:focus-visible { outline: 2px solid var(--primary-500); outline-offset: 1px; }
"""

# A tab's own key, so that a page that is loaded again is known; not the crypto.randomUUID that http pages lack.
KEY = """() => sessionStorage.iris ??=
  Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("")"""

DARK = "() => { document.body.classList.toggle('dark'); }"

# The wheel over a slice turns its slider; Ctrl or ⌘ with Enter segments; Escape cancels. Gradio's button for further
# files holds a button of its own and is called by the key of its translation: screen readers need better.
HEAD = """<script>
addEventListener("wheel", event => {
  const picture = event.target.closest?.(".picture");
  if (!picture || event.ctrlKey || event.target.tagName !== "IMG") return;
  const slider = document.querySelector("#" + picture.id.replace("slice", "slider") + " input[type=range]");
  if (!slider) return;
  event.preventDefault();
  slider.value = Number(slider.value) + (event.deltaY < 0 ? 1 : -1);
  slider.dispatchEvent(new Event("input", {bubbles: true}));
}, {passive: false});
addEventListener("keydown", event => {
  const button = event.key === "Escape" ? "#cancel"
    : event.key === "Enter" && (event.ctrlKey || event.metaKey) ? "#segment" : null;
  if (button) document.querySelector(button)?.click();
});
new MutationObserver(() => {
  for (const button of document.querySelectorAll("button[aria-label='common.upload']")) {
    button.setAttribute("role", "group");
    button.setAttribute("aria-label", button.title = "Add files");
  }
}).observe(document, {childList: true, subtree: true});
</script>"""
