"""The served page in a browser: opening it, and filling its form."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.browser.served import Served
from support.browser.viewing import View, watched_pages


@pytest.fixture(name="visit")
def visiting(browser: Any, server: Served) -> Iterator[Callable[..., View]]:
    """Open the served page, which may request nothing of others."""
    own = f"http://127.0.0.1:{server.port}/"

    def open_it(width: int = 1200, height: int = 1000, at: str = own, refused: str = "422", **options: Any) -> View:
        view = open_page(at, width, height, refused, **options)
        view.page.on("dialog", lambda dialog: dialog.accept())
        view.until("document.querySelectorAll('[name=model]').length > 0")
        return view

    with watched_pages(browser, lambda url: url.startswith((own, "data:", "blob:"))) as open_page:
        yield open_it


def submit(view: View, prompt: str = "a photo of a cat", **more: str) -> None:
    """Fill the form and start the job."""
    view.page.get_by_label("narrow-sd", exact=True).check()
    for name, ticked in (("narrow-sd's own", False), ("vae-0", True), ("vae-1", True)):
        view.page.locator("#vaes").get_by_label(name).set_checked(ticked)
    view.page.fill("#prompt", prompt)
    view.page.click("#more summary")
    for name, value in ({"steps": "3"} | more).items():
        view.page.fill(f"#{name}", value)
    view.page.click("#run")
