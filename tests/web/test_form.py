"""The served page's form and lists in a browser: refusals, late answers, announcements, and what stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.browser.served import GOOD, NO_RESULTS, TOKEN, Served, image, serving
from support.browser.viewing import View
from support.browser.visiting import submit, visiting  # noqa: F401  (the fixture `visit`)
from vaelens.web.choices import Choices
from vaelens.web.store import Store

Visit = Callable[..., View]
IMAGE = """(text) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array([137, 80, 78, 71])], "x.png", { type: "image/png" }));
  if (text) data.setData("text/plain", text);
  return data;
}"""


def fill(view: View, **values: str) -> None:
    """Fields, hidden ones as well."""
    view.page.get_by_label("narrow-sd", exact=True).check()
    for name, value in ({"prompt": "a cat"} | values).items():
        view.page.evaluate("([id, value]) => document.getElementById(id).value = value", [name, value])


def reconnect(view: View) -> None:
    """As when somebody comes back to the page: it gets the whole state, and requests the choices last."""
    with view.page.expect_response("**/api/choices") as answer:
        view.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    answer.value.finished()
    view.page.wait_for_timeout(100)


def refused(view: View, by_keys: bool) -> str:
    """The message after the job was started by a click or by keys."""
    if by_keys:
        view.page.focus("#prompt")
        view.press("Control+Enter")
    else:
        view.page.click("#run")
    view.until("document.querySelector('#error').textContent")
    return view.text("#error")


@pytest.mark.parametrize("by_keys", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("steps", "0", "steps must be a number from 1 to 1000"),
        ("steps", "2.5", "field 'steps': "),
        ("guidance_scale", "-1", "guidance scale must be a number from 0 to 1000"),
        ("size", "65", "multiples of 8"),
    ],
)
def test_an_invalid_setting_is_refused_and_shown(
    visit: Visit, server: Served, field: str, value: str, sentence: str, by_keys: bool
) -> None:
    view = visit()
    fill(view, **{field: value})
    assert view.page.evaluate("document.querySelector('#more').open") is False
    assert sentence in refused(view, by_keys)
    assert view.page.locator(f"#{field}").is_visible(), "it is folded away no more"
    assert server.ask("GET", "/api/jobs")[1]["jobs"] == []


@pytest.mark.parametrize("by_keys", [False, True])
def test_a_field_that_holds_no_number_is_not_empty(visit: Visit, server: Served, by_keys: bool) -> None:
    view = visit()
    fill(view)
    view.page.click("#more summary")
    view.page.locator("#guidance_scale").press_sequentially("1e")
    view.page.click("#more summary")
    assert refused(view, by_keys) == "Guidance scale: enter a number."
    assert view.page.evaluate("document.activeElement.id") == "guidance_scale"
    assert server.ask("GET", "/api/jobs")[1]["jobs"] == []


def test_a_key_that_is_held_down_starts_one_job(visit: Visit, server: Served) -> None:
    view = visit()
    fill(view, steps="2")
    view.page.focus("#prompt")
    view.page.keyboard.down("Control")
    for _ in range(5):
        view.page.keyboard.down("Enter")
    view.page.keyboard.up("Enter")
    view.page.keyboard.up("Control")
    view.until("document.querySelectorAll('.ended').length == 1")
    assert len(server.ask("GET", "/api/jobs")[1]["jobs"]) == 1
    assert view.page.input_value("#prompt") == "a cat"


def test_nothing_can_be_run_before_the_choices_have_loaded(visit: Visit) -> None:
    view = visit()
    markup = "(html) => new DOMParser().parseFromString(html, 'text/html').querySelector('#run').disabled"
    assert view.page.evaluate(f"fetch('/').then((answer) => answer.text()).then({markup})")
    assert view.page.is_enabled("#run")


def test_the_next_seeds_are_others(visit: Visit) -> None:
    view = visit()
    known = [
        ("3 4", "5 6"),
        ("0-2", "3 4 5"),
        ("0,1,5", "6 7 11"),
        ("-3-0", "1 2 3 4"),
        ("5 4", "7 6"),
        ("9 3", "16 10"),
        ("2 0", "5 3"),
        ("-3", "-2"),
    ]
    for typed, following in (*known, ("1234567890123456789", "1234567890123456790")):
        view.page.fill("#seeds", typed)
        view.page.click("#next-seed")
        assert view.page.input_value("#seeds") == following


def test_extreme_seeds_are_exact_and_can_be_used_again(visit: Visit, server: Served) -> None:
    view, seeds = visit(), [-3, 2**64 - 1]
    submit(view, seeds=" ".join(map(str, seeds)), steps="1")
    view.until("document.querySelectorAll('#viewer .panel').length == 2")
    (job,) = server.ask("GET", "/api/jobs")[1]["jobs"]
    assert job["request"]["seeds"] == seeds
    for wrong in ("1.5", "3-1", "0-16", f"0-{10**19}", str(2**64), "x", " ".join(map(str, range(17)))):
        view.page.fill("#seeds", wrong)
        view.page.click("#run")
        assert view.text("#error").startswith("Seeds are whole numbers from"), wrong
    view.page.get_by_role("button", name="Use these settings").click()
    assert view.page.input_value("#seeds") == f"-3 {2**64 - 1}"


def test_a_late_answer_does_not_undo_newer_events(visit: Visit, server: Served) -> None:
    view = visit()

    def late(route: Any) -> None:
        answer = route.fetch()
        server.wait(answer.json()["id"])
        view.until("document.querySelectorAll('.ended').length == 1")
        route.fulfill(response=answer)

    view.page.route("**/api/jobs", late)
    submit(view)
    view.until("document.querySelectorAll('#viewer .panel').length == 1")
    assert view.page.locator("#queue").is_hidden()


def test_a_cancel_that_failed_can_be_tried_again(visit: Visit, server: Served) -> None:
    view = visit(refused="503")
    view.page.route("**/cancel", lambda route: route.fulfill(status=503, json={"error": "not now."}))
    submit(view, steps="900", seeds=" ".join(map(str, range(16))))
    cancel = view.page.locator("#now-progress").get_by_role("button", name="Cancel")
    cancel.click()
    view.until("document.querySelector('#error').textContent == 'not now.'")
    assert cancel.is_enabled()
    view.page.unroute("**/cancel")
    cancel.click()
    view.until("document.querySelector('#now-summary').textContent.endsWith('cancelled')")
    view.page.fill("#prompt", "")
    view.page.get_by_role("button", name="Use these settings").click()  # of a job without images, too
    assert (view.page.input_value("#prompt"), view.page.input_value("#steps")) == ("a photo of a cat", "900")


def test_a_screen_reader_announces_states(visit: Visit) -> None:
    view = visit()
    view.page.evaluate("""() => {
      window.announced = [];
      new MutationObserver(() => announced.push(document.querySelector('#announcement').textContent))
        .observe(document.querySelector('#announcement'), { childList: true });
    }""")
    assert view.page.get_attribute("#announcement", "role") == "status"
    submit(view)
    view.until("announced.length == 2")
    assert view.page.evaluate("announced") == ["a photo of a cat: waiting.", "a photo of a cat: finished."]


def test_a_reconnection_leaves_the_focus_and_the_choice(visit: Visit) -> None:
    view = visit()
    view.page.get_by_label("narrow-sd", exact=True).focus()
    view.page.evaluate("window.focused = document.activeElement")
    reconnect(view)
    assert view.page.evaluate("focused.isConnected && document.activeElement === focused")


def test_another_language_leaves_the_viewer_as_it_is(visit: Visit) -> None:
    view = visit()
    submit(view)
    view.until("document.querySelectorAll('#viewer .panel').length == 1")
    view.page.get_by_role("button", name="Flicker").click()
    view.press("Space")
    view.page.evaluate("window.panel = document.querySelector('#viewer .panel')")
    view.page.get_by_role("button", name="日本語").click()
    view.until("document.querySelector('#downloads').textContent.startsWith('ダウンロード')")
    assert view.page.evaluate("panel.isConnected")
    assert view.mode() == "flicker"
    assert view.text(".shown-label .name") == "vae-1"
    assert view.text("#viewer .modes [data-mode=flicker]") == "切り替え"


def test_text_stays_text_when_it_is_pasted_or_dropped(visit: Visit) -> None:
    view, uploads = visit(), list[str]()
    view.page.on("request", lambda request: uploads.append(request.url) if "/api/uploads" in request.url else None)
    paste = f"""(text) => {{
      const data = ({IMAGE})(text);
      const event = new ClipboardEvent("paste", {{ clipboardData: data, bubbles: true, cancelable: true }});
      document.querySelector("#prompt").dispatchEvent(event);
      return event.defaultPrevented;
    }}"""
    drop = f"""([files, text, where]) => {{
      const data = files ? ({IMAGE})(text) : new DataTransfer();
      if (!files) data.setData("text/plain", text);
      const all = ["dragover", "drop"].map((kind) => new DragEvent(kind, {{ dataTransfer: data, bubbles: true, cancelable: true }}));
      for (const event of all) document.querySelector(where).dispatchEvent(event);
      return all.map((event) => event.defaultPrevented);
    }}"""  # noqa: E501
    assert view.page.evaluate(paste, "a cat") is False
    assert view.page.evaluate(drop, [False, "a cat", "#prompt"]) == [False, False]
    assert view.page.evaluate(drop, [True, "a cat", "#prompt"]) == [False, False]
    assert view.page.evaluate(drop, [True, "a cat", "#drop"]) == [True, True], "the browser would leave the page"
    assert uploads == []
    with view.page.expect_response("**/api/uploads*"):
        assert view.page.evaluate(paste, "") is True
    with view.page.expect_response("**/api/uploads*"):
        assert view.page.evaluate(drop, [True, "", "#drop"]) == [True, True]
    assert len(uploads) == 2


def test_an_upload_is_shrunk_and_the_default_size_is_the_models(visit: Visit) -> None:
    view = visit()
    view.page.locator("#models .choice-line", has_text="tiny-sd").locator("input").check()
    assert view.page.get_attribute("#size", "placeholder") == "256x256"
    view.page.get_by_label("narrow-sd", exact=True).check()
    assert view.page.get_attribute("#size", "placeholder") == "64x64"
    assert view.page.locator("#max-side").is_hidden()
    view.page.set_input_files("#file", {"name": "face.png", "mimeType": "image/png", "buffer": image()})
    view.until("!document.querySelector('#upload').hidden")
    assert view.page.get_attribute("#max-side", "placeholder") == "1024"
    view.page.fill("#max-side", "32")
    view.page.click("#run")
    view.until("document.querySelectorAll('#viewer .panel').length == 1")
    assert view.text("#viewer .panel .size") == "32 × 32"  # noqa: RUF001


def test_a_long_history_is_loaded_on_request_and_stays(visit: Visit, server: Served) -> None:
    ids = [f"{number:032x}" for number in range(120)]
    for number, job in enumerate(ids):
        created = f"2025-01-02T03:04:05.{number:03}+00:00"
        values = {"id": job, "created": created, "summary": GOOD["summary"] | {"prompt": job}}
        server.running.queue._jobs.put(GOOD | NO_RESULTS | values)
    view = visit()
    view.until("document.querySelectorAll('.ended').length == 50")
    assert view.text("#history-size").startswith("120 · ")
    for count in (100, 120):
        view.page.get_by_role("button", name="Show older jobs").click()
        view.until(f"document.querySelectorAll('.ended').length == {count}")
    assert view.page.locator("#older").is_hidden()
    assert view.page.locator(".ended .caption").all_text_contents() == ids[::-1]
    reconnect(view)
    assert view.page.locator(".ended").count() == 120
    view.page.evaluate("""() => {
      window.changes = 0;
      const options = { childList: true, subtree: true, attributes: true, characterData: true };
      new MutationObserver(() => changes++).observe(document.querySelector("#history"), options);
    }""")
    job = server.slow()
    view.until("document.querySelector('#waiting progress')?.value > 0.0005")
    assert view.page.evaluate("changes") == 0, "a job's steps are no news for the history"
    server.ask("POST", f"/api/jobs/{job}/cancel", {})
    view.until("document.querySelectorAll('.ended').length == 121")
    again = visit(at=f"http://127.0.0.1:{server.port}/#{ids[3]}")
    again.until(f"document.querySelector('#now-title').textContent == '{ids[3]}'")
    assert again.page.locator(".ended").count() == 50


def test_a_link_from_another_site_with_the_token_leads_in(browser: Any, offer: Choices, tmp_path: Path) -> None:
    Store(tmp_path).close()
    with serving(offer, tmp_path, token=TOKEN) as served:
        context = browser.new_context()
        page = context.new_page()
        link = f"<a href='http://127.0.0.1:{served.port}/?token={TOKEN}'>in</a>"
        page.route("http://elsewhere.example/", lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto("http://elsewhere.example/")
        page.click("a")
        page.wait_for_url(f"http://127.0.0.1:{served.port}/")
        view = View(page)
        view.until("document.querySelectorAll('[name=model]').length > 0")
        assert page.url == f"http://127.0.0.1:{served.port}/"
        assert TOKEN not in json.dumps(context.cookies())
        context.close()
