"""Pooling: which files go together and which don't, whose they are, and what the page and its record say."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from support.blind_results import (
    NAMES,
    abx_trials,
    file_text,
    identical_trials,
    preference_trials,
    result,
    save,
    save_all,
    sha256,
)
from support.browser.pages import HOSTILE, Parsed
from vaelens import pool_blind_results
from vaelens.blind.pooling import PooledResults
from vaelens.errors import BadInputError, UsageError, VaelensError


def pooled(folder: Path, *results: dict[str, Any]) -> PooledResults:
    return pool_blind_results(save_all(folder, results))


def test_three_people_are_counted_alone_and_together(tmp_path: Path) -> None:
    people = {"Anna": 11, "Ben": 14, "Cleo": 9}
    found = pooled(tmp_path, *(result(abx_trials(hits, 16), person=name) for name, hits in people.items()))
    (outcome,) = found.outcomes
    (counts,) = outcome.pairs
    assert {name: one.hits for name, one in counts.people.items()} == people
    assert (counts.total.hits, counts.total.trials) == (34, 48)
    assert counts.total.p == pytest.approx(binomtest(34, 48, 0.5, alternative="greater").pvalue)
    assert counts.between is not None
    assert (counts.between.lowest, counts.between.highest) == (9 / 16, 14 / 16)
    assert [person.name for person in found.people] == ["Anna", "Ben", "Cleo"]


def test_whose_a_file_is(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    answers = [result(abx_trials(hits, 8), person=name) for hits, name in ((4, "Anna "), (5, ""), (6, " Anna"))]
    paths = [*save_all(tmp_path, answers), save(other / "2.json", result(abx_trials(7, 8)))]
    found = pool_blind_results(paths)
    assert {one.name: [file.name for file in one.files] for one in found.people} == {
        "Anna": ["1.json", "3.json"],
        "2.json": ["2.json"],
        "2.json (2)": ["2.json"],
    }
    (counts,) = found.outcomes[0].pairs
    assert {name: (one.hits, one.trials) for name, one in counts.people.items()} == {
        "Anna": (10, 16),
        "2.json": (5, 8),
        "2.json (2)": (7, 8),
    }


def test_kinds_of_tests_have_parts_of_their_own(tmp_path: Path) -> None:
    better = result([*preference_trials(3, 5), *identical_trials(1, 2)], "better", person="Anna")
    closer = result(preference_trials(4, 5), "closer", person="Ben")
    found = pooled(tmp_path, closer, result(abx_trials(11, 16), person="Ben"), better)
    assert [outcome.test for outcome in found.outcomes] == ["abx", "better", "closer"]
    assert [part.heading for part in found.parts()] == [
        "ABX", "Looks better", "Looks better: checks", "Closer to the original", "Closer to the original: checks",
        "Tests",
    ]  # fmt: skip
    assert [list(outcome.pairs[0].people) for outcome in found.outcomes] == [["Ben"], ["Anna"], ["Ben"]]


OTHER_PAGE = result(abx_trials(5, 8), page=sha256("another"))
OTHER_VAES = result(abx_trials(5, 8), names=("tiny-ft-ema", "tiny-kl-f8"))


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (OTHER_PAGE, "2.json is of another page than {0}1.json, with other images of the same VAEs"),
        (OTHER_VAES, "2.json is a test of other VAEs ('tiny-ft-ema', 'tiny-kl-f8') than {0}1.json ('tiny-ft-ema', "),
        (OTHER_VAES | {"page": OTHER_PAGE["page"]}, "2.json is a test of other VAEs"),
        (result(abx_trials(3, 8)), "2.json holds the same test as {0}1.json, and would count twice"),
    ],
)
def test_files_that_do_not_go_together_are_named_both(second: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        pooled(tmp_path, result(abx_trials(3, 8)), second)
    assert str(refused.value).startswith(f"{tmp_path}/" + says.format(f"{tmp_path}/"))
    assert str(refused.value).count(". ") == 1, "one sentence, and what to do"


def test_the_same_test_counts_once_whatever_its_file_is_called(tmp_path: Path) -> None:
    first = save(tmp_path / "a.json", result(abx_trials(3, 8)))
    copy = shutil.copy(first, tmp_path / "copy.json")
    with pytest.raises(UsageError, match=r"copy\.json holds the same test as .*a\.json"):
        pool_blind_results([first, copy])
    for twice in ([first, first], [str(first), first]):
        with pytest.raises(UsageError, match=r"a\.json is named twice"):
            pool_blind_results(twice)
    again = save(tmp_path / "again.json", result(abx_trials(4, 8), person="Ben", run=result(abx_trials(3, 8))["run"]))
    with pytest.raises(UsageError, match=r"again\.json holds the same test as .*a\.json"):
        pool_blind_results([first, again])


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(file_text(result(abx_trials(3, 8))).replace(b'"answer": "a"', b'"answer": "b"', 1))
    with pytest.raises(BadInputError, match=r"a\.json can't be read .* it was reformatted or edited"):
        pool_blind_results(path)
    with pytest.raises(UsageError, match="no result file named"):
        pool_blind_results([])


def test_a_plain_sentence_says_what_was_found(tmp_path: Path) -> None:
    said = {hits: pooled(tmp_path, result(abx_trials(hits, 16))).parts()[0].findings for hits in (11, 14, 2)}
    assert said[11] == (
        "1 test: 16 of 16 planned trials answered; half of the answers took no longer than 1.5 s.",
        "11 of 16 right: p = 0.105. Not shown that tiny-ft-ema and tiny-ft-mse can be told apart here. With 16 trials, "
        "12 right would have shown it; someone who is right 3 times out of 4 reaches that with a probability of 0.63. "
        "The 95 % interval of the true hit rate is 41 % to 89 %.",
    )
    assert said[14][1].startswith("14 of 16 right: p = 0.002. Guesses would rarely give so many: ")
    assert said[14][1].endswith("were told apart here. The 95 % interval of the true hit rate is 62 % to 98 %.")
    assert "Guesses would rarely give so few" in said[2][1]
    few = pooled(tmp_path, result(abx_trials(4, 4), planned=9)).parts()[0].findings
    assert few[0].startswith("1 test: 4 of 9 planned trials answered, 1 stopped early; ")
    assert few[1].startswith("4 of 4 right: p = 0.062. So few trials show nothing")
    three = pooled(tmp_path, *(result(abx_trials(hits, 16), person=f"{hits}") for hits in (24, 9, 14))).parts()
    assert (
        three[1].findings[0].startswith("The 3 people's hit rates range from 56 % to 100 %. Their standard deviation")
    )
    quick = pooled(tmp_path, result(abx_trials(3, 8, ms=30))).parts()[0].findings
    assert quick[0] == "1 test: 8 of 8 planned trials answered; half of the answers took less than 0.1 s."
    none = pooled(tmp_path, result([], planned=9)).parts()[0]
    assert none.findings == ("1 test: 0 of 9 planned trials answered, 1 stopped early.",)


def test_kinds_of_region_and_differences_between_people_have_tables(tmp_path: Path) -> None:
    def answers(hits: int, person: str) -> dict[str, Any]:
        eyes, letters = abx_trials(hits, 8, kind="eye"), abx_trials(hits - 1, 8, (1, 2), kind="letters")
        return result([*eyes, *letters], names=NAMES, person=person)

    both = pooled(tmp_path, answers(6, "Anna"), answers(4, "Ben"))
    parts = {part.heading: part for part in both.parts()}
    assert list(parts) == ["ABX", "ABX: by person", "ABX: between people", "ABX: by kind of region", "Tests"]
    assert [row[:5] for row in parts["ABX: by kind of region"].table.rows] == [
        (*NAMES[:2], "eyes", "10", "16"),
        (*NAMES[1:], "letters", "8", "16"),
        ("all pairs", "", "eyes", "10", "16"),
        ("all pairs", "", "letters", "8", "16"),
    ]
    assert list(both.as_dict()["tests"][0]["together"]["kinds"]) == ["eye", "letters"], "as the files call them"
    assert [row[:5] for row in parts["ABX: between people"].table.rows] == [
        (*NAMES[:2], "2", "50.0", "75.0"),
        (*NAMES[1:], "2", "37.5", "62.5"),
        ("all pairs", "", "2", "43.8", "68.8"),
    ]
    one = pooled(tmp_path, result(abx_trials(3, 8), person="Anna"), result(abx_trials(4, 8), person="Ben")).parts()
    assert [part.heading for part in one] == ["ABX", "ABX: by person", "Tests"], "one question needs no table"


def test_a_lower_end_below_chance_is_explained_beside_a_small_p(tmp_path: Path) -> None:
    (_, found) = pooled(tmp_path, result(abx_trials(12, 16))).parts()[0].findings
    assert "p = 0.038" in found
    assert found.endswith("is 48 % to 93 %. It reaches below 50 % as it has two sides, where p has one.")


def test_a_preference_is_said_of_the_one_preferred(tmp_path: Path) -> None:
    def said(preferred: int, count: int) -> str:
        return pooled(tmp_path, result(preference_trials(preferred, count), "better")).parts()[0].findings[1]

    assert said(4, 16).startswith(
        "tiny-ft-mse was preferred to tiny-ft-ema in 12 of 16 trials: p = 0.077. No preference"
    )
    assert said(4, 16).endswith("The 95 % interval of the true share is 48 % to 93 %.")
    assert said(14, 16).startswith("tiny-ft-ema was preferred to tiny-ft-mse in 14 of 16 trials: p = 0.004. Without a")
    assert "So few trials can't show a preference, even where all answers agree." in said(5, 5)


def test_a_name_can_not_turn_a_sentence_round(tmp_path: Path) -> None:
    names = ("\u202eab\n", "x" * 3000)
    (_, found) = pooled(tmp_path, result(abx_trials(11, 16), names=names)).parts()[0].findings
    assert "Not shown that \\u202eab\\n and xxx" in found
    assert len(found) < 400


def test_scores_or_why_there_are_none(tmp_path: Path) -> None:
    def part(*of_pairs: tuple[tuple[int, int], int]) -> Any:
        trials = [one for pair, preferred in of_pairs for one in preference_trials(preferred, 10, pair)]
        parts = {one.heading: one for one in pooled(tmp_path, result(trials, "better", NAMES)).parts()}
        return parts["Looks better: scores"]

    whole = part(((0, 1), 7), ((0, 2), 8), ((1, 2), 6))
    assert whole.findings == ()
    assert [row[0] for row in whole.table.rows] == list(NAMES)
    assert all(row[1] and row[2] for row in whole.table.rows)
    assert [row[3:] for row in whole.table.rows] == [("15", "5"), ("9", "11"), ("6", "14")]
    separated = part(((0, 1), 10), ((0, 2), 10), ((1, 2), 6))
    assert separated.findings == (
        "No scores: tiny-ft-ema never lost to tiny-ft-mse and tiny-kl-f8, so their difference has no finite best "
        "estimate. Do more trials.",
    )
    four = (*NAMES, "other")
    trials = [one for pair in ((0, 1), (2, 3)) for one in preference_trials(6, 10, pair)]
    apart = {one.heading: one for one in pooled(tmp_path, result(trials, "better", four)).parts()}[
        "Looks better: scores"
    ]
    assert apart.findings == ("No scores: no trial compares tiny-ft-ema or tiny-ft-mse with tiny-kl-f8 or other.",)


def test_decoders_that_were_not_shown_have_no_score(tmp_path: Path) -> None:
    """Of a page with many decoders a person may choose some."""
    four = ("unseen", *NAMES)
    trials = [one for pair in ((1, 2), (1, 3), (2, 3)) for one in preference_trials(7, 10, pair)]
    found = pooled(tmp_path, result([*trials, *identical_trials(1, 2)], "better", four))
    table = {one.heading: one.table for one in found.parts()}["Looks better: scores"]
    assert [row[0] for row in table.rows] == list(NAMES)
    assert [row[3:] for row in table.rows] == [("14", "6"), ("10", "10"), ("6", "14")]
    scores = found.as_dict()["tests"][0]["bradley_terry"]
    assert scores["decoders"] == list(NAMES)
    assert scores["scores"][1]["value"] == pytest.approx(0, abs=1e-9)
    two = pooled(tmp_path, result([*preference_trials(6, 10), *identical_trials(1, 2)], "better", four)).parts()
    assert "Looks better: scores" not in [part.heading for part in two]


def test_all_numbers_are_there_as_json(tmp_path: Path) -> None:
    trials = [one for pair in ((0, 1), (0, 2), (1, 2)) for one in preference_trials(7, 10, pair)]
    found = pooled(
        tmp_path,
        result([*abx_trials(11, 16), *abx_trials(3, 4, (1, 2))], names=NAMES, person="Anna"),
        result(abx_trials(14, 16), names=NAMES, person="Ben", planned=20),
        result([*trials, *identical_trials(1, 4), trials[0]], "closer", NAMES),
    )
    values = json.loads(json.dumps(found.as_dict()))
    assert [decoder["name"] for decoder in values["decoders"]] == list(NAMES)
    assert values["people"] == ["Anna", "Ben", "3.json"]
    abx, closer = values["tests"]
    first = abx["pairs"][0]
    assert (first["first"], first["second"], first["hits"], first["trials"]) == (*NAMES[:2], 25, 32)
    assert first["people"]["Anna"]["rate"] == 11 / 16
    assert (abx["planned"], abx["answered"], abx["stopped_early"], abx["tests"]) == (40, 36, 1, 2)
    assert abx["together"]["hits"] == 28
    assert set(first["between_people"]) == {"people", "lowest", "highest", "std", "by_chance", "mean"}
    assert closer["wins"] == [[0, 7 + 1, 7], [3, 0, 7], [3, 3, 0]]
    assert (closer["identical"]["hits"], closer["identical"]["trials"]) == (1, 4)
    assert (closer["repeats"]["hits"], closer["repeats"]["trials"]) == (1, 1)
    assert len(closer["bradley_terry"]["scores"]) == 3
    assert values["files"][0]["sha256"] == hashlib.sha256((tmp_path / "1.json").read_bytes()).hexdigest()


def test_the_page_and_its_record_are_saved_beside_each_other(tmp_path: Path) -> None:
    found = pooled(tmp_path, result(abx_trials(11, 16), person="Anna"), result(abx_trials(9, 16)))
    written = found.save(tmp_path / "out.html")
    assert [path.name for path in written] == ["out.html", "out.run.json"]
    page = Parsed((tmp_path / "out.html").read_text("utf-8"))
    headings = [attributes.get("id") for tag, attributes in page.tags if tag == "section" and "id" in attributes]
    assert headings == ["abx", "abx-by-person", "tests", "how-it-was-made"]
    record = json.loads((tmp_path / "out.run.json").read_text())
    assert record["command"] == "blind"
    assert [vae["name"] for vae in record["vaes"]] == list(NAMES[:2])
    names = [(one["file"], one["sha256"]) for one in record["results"]]
    hashes = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("1.json", "2.json")]
    assert names == list(zip(("1.json", "2.json"), hashes, strict=True))
    assert str(tmp_path) not in (tmp_path / "out.html").read_text("utf-8")
    found.save(tmp_path / "out.html")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("out.png", "the output is a page. Name an .html file."),
        ("folder", "the output is a page. Name an .html file."),
        ("1.html", "is one of the inputs and would be lost"),
        ("mine.html", "was not made by vaelens"),
    ],
)
def test_nothing_of_the_user_is_overwritten(output: str, says: str, tmp_path: Path) -> None:
    mine = save(tmp_path / "1.html", result(abx_trials(11, 16)))
    (tmp_path / "mine.html").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(VaelensError, match=says):
        pool_blind_results(mine).save(tmp_path / output)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_hostile_texts_add_no_element_and_no_attribute(tmp_path: Path) -> None:
    def shape(text: str) -> list[tuple[str, list[str]]]:
        names = (f"{text}1", f"{text}2")
        answers = [result(abx_trials(3, 8, kind=text), names=names, person=text[:70], vaelens=text)]
        answers += [result(preference_trials(3, 8, kind=text), "better", names, page=answers[0]["page"])]
        page = pooled(tmp_path, *answers).page()
        return [(tag, sorted(attributes)) for tag, attributes in Parsed(page).tags]

    assert shape(HOSTILE) == shape("harmless")


def test_the_decoders_may_be_called_otherwise(tmp_path: Path) -> None:
    """As an evaluation calls them."""
    found = pooled(tmp_path, result(abx_trials(11, 16)))
    renamed = [decoder.model_copy(update={"name": f"my {decoder.name}"}) for decoder in found.decoders]
    other = dataclasses.replace(found, decoders=tuple(renamed))
    assert other.parts()[0].table.rows[0][:2] == ("my tiny-ft-ema", "my tiny-ft-mse")
    assert repr(other) == "PooledResults(my tiny-ft-ema and my tiny-ft-mse; 1 person; 16 answers to abx)"


def test_a_name_is_one_however_its_accents_are_written(tmp_path: Path) -> None:
    files = [result(abx_trials(3, 8), person=person, run=run * 32) for person, run in (("é", "1"), ("e\u0301", "2"))]
    assert [person.name for person in pool_blind_results(save_all(tmp_path, files)).people] == ["é"]


def test_a_low_count_of_guesses_is_no_reversed_answer(tmp_path: Path) -> None:
    """4 of 16 is rare on its side alone (3.8 %), but half lies within the two-sided interval."""
    said = pooled(tmp_path, result(abx_trials(4, 16))).parts()[0].findings[1]
    assert "Not shown that" in said
    assert "wrong way round" not in said
