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

    # what was taken away needs neither server nor network
    alone = page.context.browser.new_context(offline=True).new_page()
    alone.goto(view.as_uri())
    expect(alone.locator(".js-plotly-plot canvas").first).to_be_visible(timeout=WAIT_MS)
    alone.context.close()
