"""Jobs in a browser from the form to the viewer: progress, flicker, reload and cancel in mid-job, markup."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from support.browser.served import Served, image
from support.browser.viewing import View
from support.browser.visiting import submit, visiting  # noqa: F401

HOSTILE = '<img src=x onerror="window.owned=1"></script><script>window.owned=1</script>$& 日本'


def test_from_a_prompt_to_flicker(visit: Callable[..., View], server: Served) -> None:
    view = visit()
    submit(view, seeds="5 6")
    view.until("document.querySelectorAll('#viewer .panel').length == 2")
    view.until("[...document.querySelectorAll('#viewer .row img')].every(i => i.complete && i.naturalWidth == 64)")
    assert view.text("#now-title") == "a photo of a cat"
    panel = view.page.locator("#viewer .panel").first
    assert panel.locator(".row .name").all_text_contents() == ["vae-0", "vae-1"]
    panel.get_by_role("button", name="Flicker").click()
    label = panel.locator(".shown-label .name")
    seen = [label.text_content()]
    for _ in range(2):
        view.page.keyboard.press("Space")
        seen.append(label.text_content())
    assert seen == ["vae-0", "vae-1", "vae-0"]
    visible = "[...document.querySelectorAll('.flick img')].filter(i => i.style.visibility != 'hidden').map(i => i.alt)"
    assert view.page.evaluate(visible)[0] == "vae-0"
    with view.page.expect_download() as download:
        view.page.get_by_role("link", name="Page", exact=True).click()
    assert re.fullmatch(r"vaelens-[0-9a-f]{8}\.html", download.value.suggested_filename)
    view.page.click(".ended .bin", force=True)
    view.until("document.querySelectorAll('.ended').length == 0")
    assert server.ask("GET", "/api/jobs")[1]["jobs"] == []


def test_a_reload_in_mid_job_changes_nothing_and_a_cancel_ends_it(visit: Callable[..., View], server: Served) -> None:
    view = visit()
    submit(view, steps="900", seeds=" ".join(map(str, range(16))))
    view.until("document.querySelector('#now-progress progress')?.value > 0")
    before = view.page.evaluate("document.querySelector('#now-progress progress').value")
    view.page.reload()
    view.until(f"document.querySelector('#now-progress progress')?.value > {before}")
    assert view.text("#now-title") == "a photo of a cat"
    assert view.page.input_value("#prompt") == "a photo of a cat"
    assert "seed 0, step" in view.text("#now-progress .quiet")
    assert "of 14448" in view.text("#waiting .quiet")
    view.page.locator("#now-progress").get_by_role("button", name="Cancel").click()
    view.until("document.querySelector('#now-summary').textContent.endsWith('cancelled')")
    view.until("document.querySelector('#queue').hidden")
    (job,) = server.ask("GET", "/api/jobs")[1]["jobs"]
    assert job["state"] == "cancelled"


def test_an_upload_is_compared_with_its_original(visit: Callable[..., View]) -> None:
    view = visit()
    name = "<b>face & eyes.png"
    view.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": image()})
    view.until("!document.querySelector('#upload').hidden")
    assert view.page.locator("#models").is_hidden()
    view.page.click("#run")
    view.until("document.querySelectorAll('#viewer .row figure').length > 1")
    assert view.text("#viewer .row figcaption .name") == "original"
    assert "_b_face" in view.text("#now-title")


def test_markup_in_prompts_is_shown_and_does_nothing(visit: Callable[..., View]) -> None:
    view = visit()
    submit(view, prompt=HOSTILE)
    view.until("document.querySelectorAll('#viewer .panel').length == 1")
    view.until("document.querySelectorAll('.ended').length == 1")
    for place in ("#now-title", ".ended .caption"):
        assert view.text(place) == HOSTILE, place
    assert view.page.get_by_role("link", name=HOSTILE).get_attribute("aria-label") == f"Show {HOSTILE}"
    assert view.page.evaluate("window.owned") is None
    assert view.page.locator("#now img[src='x'], .ended img[src='x']").count() == 0


def test_a_vae_of_another_space_is_disabled_and_errors_are_shown(visit: Callable[..., View]) -> None:
    view = visit()
    view.page.get_by_label("narrow-sd", exact=True).check()
    tiny = view.page.locator("#vaes .choice-line", has_text="tiny-ft-mse").first
    assert tiny.locator("input").is_disabled()
    assert "another latent space (tiny)" in tiny.text_content()
    view.page.locator("#models .choice-line", has_text="tiny-sd").locator("input").check()
    assert tiny.locator("input").is_checked()
    assert "the letter R in red on white" in view.text("#examples")
    view.page.click("#run")
    assert view.text("#error") == "Enter a prompt or upload an image."
    view.page.fill("#prompt", "a castle")
    with view.page.expect_response("**/api/jobs") as answer:
        view.page.click("#run")
    assert answer.value.status == 422


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_is_translated_and_works_by_keys(visit: Callable[..., View], width: int) -> None:
    view = visit(width=width, locale="ja-JP")
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    assert view.text("#run") == "実行"
    view.page.get_by_role("button", name="EN").click()
    assert view.text("#run") == "Run"
    view.page.focus("#prompt")
    reached = set()
    for _ in range(30):
        view.page.keyboard.press("Tab")
        reached.add(view.page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"file", "model", "vae", "seeds", "next-seed", "run"} <= reached


def test_markup_in_names_is_shown_and_does_nothing(
    visit: Callable[..., View], server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files become names of models and VAEs: in the form, the viewer and the downloads."""
    choices = server.running.queue._runner.choices
    name = HOSTILE.replace("/", "")
    for kind in (choices.models, choices.vaes):
        for number, one in kind.items():
            monkeypatch.setitem(kind, number, replace(one, name=f"{name} {one.name}"))
    view = visit()
    texts = view.page.locator("#models .choice-line, #vaes .choice-line").all_text_contents()
    assert sum(name in text for text in texts) >= 3
    view.page.locator("#models .choice-line", has_text="narrow-sd").locator("input").check()
    view.page.fill("#prompt", "a cat")
    view.page.evaluate("document.querySelector('#steps').value = 2")
    view.page.click("#run")
    view.until("document.querySelectorAll('#viewer .panel').length == 1")
    assert name in view.text("#now-summary")
    assert name in view.text("#viewer .row .name")
    assert name in view.text("#downloads")
    assert view.page.evaluate("window.owned") is None
    assert view.page.locator("img[src='x']").count() == 0


def test_the_page_says_which_image_is_damaged(visit: Callable[..., View], server: Served) -> None:
    job = server.wait(server.start())["id"]
    (image,) = server.running.store.folder.rglob("result/1.png")
    image.write_bytes(image.read_bytes() + b"\0")
    view = visit(at=f"http://127.0.0.1:{server.port}/#{job}", refused="410")
    view.until("document.querySelector('#error').textContent.includes('1.png has changed since')")
