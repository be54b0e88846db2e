"""What the page lets a browser do: its own scripts and pictures run, other sites' pages neither frame nor use it."""

import http.server
import threading
from functools import partial
from pathlib import Path

import pytest
from browser_page import WAIT_MS, button, done, serve
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
WATCH = """addEventListener("securitypolicyviolation", event =>
  console.error(`violated ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile} ${event.sample}`))"""


@pytest.fixture
def said(page: Page) -> list[str]:
    """What the browser complains of."""
    found: list[str] = []
    page.add_init_script(WATCH)
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def elsewhere(tmp_path: Path):
    """Another site, with the folder ``tmp_path``: its address. To a browser localhost is not 127.0.0.1."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_other_sites_show_it_in_no_frame_unless_they_are_named(
    page: Page, address: str, elsewhere: str, said: list[str], tmp_path: Path, tiny_weights: Path
):
    def frame(shown: str) -> None:
        (tmp_path / "frame.html").write_text(f"<iframe src='{shown}' width=1200 height=800></iframe>")
        page.goto(f"{elsewhere}/frame.html")

    notice = page.frame_locator("iframe").get_by_text("Not a medical device")
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        frame(address)
    expect(notice).to_have_count(0)
    command = ["-m", "app.cli", "app", "--port", "PORT", "--no-open-browser", "--weights", str(tiny_weights)]
    said.clear()
    for embedding in serve([*command, "--embed", elsewhere], tmp_path):
        frame(embedding)
        expect(notice).to_be_visible(timeout=WAIT_MS)
        assert not any("violated" in text for text in said), said


def test_other_sites_cannot_use_it(page: Page, address: str, elsewhere: str, tmp_path: Path):
    form = "<form method=post enctype=multipart/form-data action={}><input type=file name=files><button>send</button>"
    (tmp_path / "form.html").write_text(form.format(f"{address}gradio_api/upload"))
    page.goto(f"{elsewhere}/form.html")
    page.set_input_files("input", tmp_path / "form.html")
    with page.expect_response(f"{address}gradio_api/upload") as answer:
        page.click("button")
    assert answer.value.status == 403
    expect(page.get_by_text("Another site's page may not use this one")).to_be_visible()
    page.goto(address)
    own = "fetch('gradio_api/upload', {method: 'POST', body: new FormData()}).then(answer => answer.status)"
    assert page.evaluate(own) != 403


def test_the_page_works_under_its_policy(page: Page, address: str, said: list[str], tmp_path: Path):
    """Segment, look, draw, turn, take away: nothing is refused by the policy."""
    with page.expect_response(address) as arrived:
        page.goto(address)
    headers = arrived.value.headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"].split("script-src")[1].split(";")[0]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    page.click("#sample-hippocampus")
    done(page, "1 of 1")
    expect(page.locator("#viewer canvas")).to_be_visible()
    button(page, "Fill")
    page.locator("#planes input").check()
    page.click("#mode")
    page.click("#explain")
    expect(page.locator("#viewer")).to_contain_text("registration alone", timeout=WAIT_MS)
    with page.expect_download() as download:
        page.locator("#views a[download$='.html']").first.click()
    view = tmp_path / "view.html"
    download.value.save_as(view)
    refused = [text for text in said if "violated" in text or "Content Security Policy" in text]
    assert not refused, refused

    # what a name might smuggle into the page is not run
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.run=1>')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.run = 1'}))")
    page.wait_for_function("document.querySelector('img[src=x]').complete")
    assert page.evaluate("window.run") is None and sum("violated script-src" in text for text in said) == 2

    # what was taken away needs neither server nor network
    alone = page.context.browser.new_context(offline=True).new_page()
    alone.goto(view.as_uri())
    expect(alone.locator(".js-plotly-plot canvas").first).to_be_visible(timeout=WAIT_MS)
    alone.context.close()
