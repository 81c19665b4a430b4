"""The served page in a browser: opening it, and filling its form."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.served import Served
from support.viewing import View


@pytest.fixture(name="visit")
def visiting(browser: Any, server: Served) -> Iterator[Callable[..., View]]:
    """Open the served page; at the end it must have asked nobody else, and reported no error."""
    contexts, foreign, errors = [], [], []
    own = f"http://127.0.0.1:{server.port}/"

    def open_it(width: int = 1200, height: int = 1000, at: str = own, refused: str = "422", **options: Any) -> View:
        """`refused` is a pattern of the statuses that the console may tell of."""
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on(
            "request", lambda request: request.url.startswith((own, "data:", "blob:")) or foreign.append(request.url)
        )
        page.on(
            "console", lambda message: re.search(f"status of ({refused})", message.text) or errors.append(message.text)
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(at)
        view = View(page)
        view.until("document.querySelectorAll('[name=model]').length > 0")
        return view

    yield open_it
    for context in contexts:
        context.close()
    assert (errors, foreign) == ([], [])


def asked(view: View, prompt: str = "a photo of a cat", **more: str) -> None:
    """Fill the form, and go."""
    view.page.get_by_label("narrow-sd", exact=True).check()
    for name, ticked in (("narrow-sd's own", False), ("vae-0", True), ("vae-1", True)):
        view.page.locator("#vaes").get_by_label(name).set_checked(ticked)
    view.page.fill("#prompt", prompt)
    view.page.click("#more summary")
    for name, value in ({"steps": "3"} | more).items():
        view.page.fill(f"#{name}", value)
    view.page.click("#run")
