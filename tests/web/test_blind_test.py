"""A blind test of a job's images in the served page, while the server goes on sending events."""

import json
from collections.abc import Callable
from pathlib import Path

from support.blind_results import abx_trials, file_text, result
from support.browser.blind import begin, look, right_answer, save, seen, take
from support.browser.served import Served
from support.browser.viewing import View
from support.browser.visiting import visiting  # noqa: F401
from vaelens.blind.result_file import read_result

TRIALS = 4
HELD = "window.held = document.querySelector('#content')"  # the page's content, out of the document during a test
TICKED = "[...document.querySelectorAll('#content :checked:not(option)')].map(input => input.value)"


def open_job(visit: Callable[..., View], server: Served, refused: str = "(?!)") -> tuple[View, str]:
    """A finished job's page."""
    job = server.wait(server.start())["id"]
    view = visit(at=f"http://127.0.0.1:{server.port}/#{job}", refused=refused)
    view.until("document.querySelector('.begin')")
    view.page.evaluate(HELD)
    return view, job


def test_a_test_goes_on_while_events_arrive_and_is_stored(visit: Callable[..., View], server: Served) -> None:
    view, job = open_job(visit, server)
    requested: list[str] = []
    view.page.on("request", lambda request: requested.append(request.url))
    view.page.locator("#vaes").get_by_label("vae-1").uncheck()
    form = view.page.evaluate(TICKED)
    view.page.click(".begin")
    display = "getComputedStyle(document.querySelector('.setup')).display"
    assert view.page.evaluate(display) == "block", "the style of the page's form isn't that of the test's"
    begin(view, trials=TRIALS, person="Anna")
    numbers = {layer["image"] for layer in server.job(job)["panels"][0]["layers"]}
    assert {url for url in requested if "/images/" in url} <= {
        f"http://127.0.0.1:{server.port}/api/jobs/{job}/images/{number}" for number in numbers
    }
    requested.clear()

    def wanted(number: int) -> str:
        found = seen(view)
        text = json.dumps({**found, "address": ""})
        secrets = ["vae-", "narrow", "/images/", "a cat", "latent", "data:image"]
        secrets += [half for one in server.job(job)["blind"]["decoders"] for half in (one["encoder"], one["decoder"])]
        assert [secret for secret in secrets if secret in text] == []
        title = "Blind test" if number < 3 else "ブラインドテスト"
        assert (found["resources"], found["images"], found["title"]) == ([], 0, title)
        assert (job in found["html"], found["address"]) == (False, f"http://127.0.0.1:{server.port}/#{job}")
        if number == 1:
            before, shown = view.page.evaluate("document.body.innerHTML"), look(view)
            other = server.start(prompt="another cat")
            server.wait(other)
            view.until(f"held.querySelector('#ended a[href=\"#{other}\"]')")
            assert view.page.evaluate("document.body.innerHTML") == before
            assert look(view) == shown
        if number == 2:
            view.page.get_by_role("button", name="日本語").click()
        return right_answer(view)

    take(view, wanted)
    assert not [url for url in requested if "/images/" in url], "during the trials no image is fetched"
    view.until("document.querySelector('.kept').textContent.startsWith('結果はこのジョブとともに')")
    (stored,) = server.running.store.folder.rglob("blind/*.json")
    test = read_result(stored).test
    assert (test.person, test.page, [trial.is_hit for trial in test.trials]) == (
        "Anna",
        server.job(job)["blind"]["page"],
        [True] * TRIALS,
    )
    view.page.click(".outcome .leave")
    view.until("document.querySelector('#content .panel')")
    assert view.page.locator("#ended .ended").count() == 2
    assert view.text("#run") == "実行"
    assert view.page.evaluate(TICKED) == form
    assert len(form) == 2, "a model and a VAE"
    with view.page.expect_download() as download:
        view.page.get_by_role("link", name="ブラインドテストの結果（1）").click()  # noqa: RUF001
    assert download.value.suggested_filename == f"vaelens-{job[:8]}-blind.html"
    view.page.get_by_role("button", name="EN").click()
    assert view.page.get_by_role("link", name="Blind test results (1)").is_visible()


def test_deleting_a_job_says_what_is_lost(visit: Callable[..., View], server: Served) -> None:
    view, job = open_job(visit, server)
    other = server.wait(server.start())["id"]
    own = server.job(job)["blind"]
    text = file_text(result(abx_trials(1, 2), page=own["page"], decoders=own["decoders"]))
    assert server.raw("POST", f"/api/jobs/{job}/blind", text, Content_Type="application/json")[0] == 201
    view.until(f"document.querySelector('#downloads a[href=\"/api/jobs/{job}/blind\"]')")
    asked: list[str] = []
    view.page.on("dialog", lambda dialog: asked.append(dialog.message))
    for left, one in ((1, job), (0, other)):
        view.page.locator(f"#ended .ended:has(a[href='#{one}']) .bin").click()
        view.until(f"document.querySelectorAll('#ended .ended').length == {left}")
    assert asked == [
        "Delete this result, its files and its blind test results (1)?",
        "Delete this result and its files?",
    ]


def test_a_job_deleted_meanwhile_leaves_the_result_to_be_saved(
    visit: Callable[..., View], server: Served, tmp_path: Path
) -> None:
    view, job = open_job(visit, server, refused="404")
    begin(view, trials=TRIALS)

    def wanted(number: int) -> str:
        if number == 1:
            assert server.ask("DELETE", f"/api/jobs/{job}")[0] == 204
            view.until("!held.querySelector('#nothing').hidden")
        return "A"

    take(view, wanted)
    said = "The result could not be stored: this job doesn't exist, or was deleted. Save it as a file."
    view.until(f"document.querySelector('.kept').textContent == {said!r}".replace("\\'", "'"))
    assert len(read_result(save(view, tmp_path)).test.trials) == TRIALS
    view.page.click(".outcome .leave")
    view.until("document.querySelector('#content')")
    assert view.text("#nothing") == "Results appear here."
    assert view.page.locator(".panel, .blind-offer").count() == 0
    assert view.page.url == f"http://127.0.0.1:{server.port}/"


def test_files_dropped_or_pasted_during_a_test_stay_out_of_it(visit: Callable[..., View], server: Served) -> None:
    """The browser must not open a dropped file: the test would be lost."""
    view, _ = open_job(visit, server)
    begin(view, trials=TRIALS)
    requested: list[str] = []
    view.page.on("request", lambda request: requested.append(request.url))
    prevented = view.page.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File(["x"], "x.png", { type: "image/png" }));
      const options = { dataTransfer: data, bubbles: true, cancelable: true };
      const drops = ["dragover", "drop"].map(kind => !document.body.dispatchEvent(new DragEvent(kind, options)));
      const paste = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
      return [...drops, !document.body.dispatchEvent(paste)];
    }""")
    assert prevented == [True, True, False]
    view.page.evaluate("new Promise(resolve => setTimeout(resolve, 50))")
    assert [url for url in requested if "uploads" in url] == []
