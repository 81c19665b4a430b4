"""The numbers of the blind test's script in a browser against Python's, SciPy's and hashlib's."""

import hashlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from vaelens.metrics import binomial
from vaelens.metrics.bradley_terry import bradley_terry
from vaelens.report.page import package_file

CHAIN = [[int(abs(i - j) == 1) for j in range(5)] for i in range(5)]  # whole Newton steps overshoot its ends
FILES = ("statistics.js", "bradley_terry.js", "sha256.js")
Run = Callable[[str, object], object]


@pytest.fixture(scope="module")
def run(browser) -> Iterator[Run]:
    """Calls a JavaScript function of one argument where the scripts are loaded, as the viewer's in one strict scope."""
    page, scripts = browser.new_page(), "\n".join(package_file(f"blind/{name}") for name in FILES)
    page.evaluate(f"window.call = (() => {{ 'use strict'; {scripts}\nreturn (text) => eval(text); }})()")
    yield lambda function, argument: page.evaluate(f"(argument) => call({function!r})(argument)", argument)
    page.close()


def counts() -> list[tuple[int, int]]:
    """Hits of trials: all of few, and some of many up to the far tails."""
    many = [(round(share * trials), trials) for trials in (40, 225, 999, 2000, 5000) for share in np.linspace(0, 1, 21)]
    return [(hits, trials) for trials in range(1, 17) for hits in range(trials + 1)] + many


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_proportions_are_scipys_and_pythons(run: Run, alternative: str) -> None:
    found = run(f"(all) => all.map(([k, n]) => proportion(k, n, {str(alternative != 'greater').lower()}))", counts())
    for (hits, trials), one in zip(counts(), found, strict=True):
        ours = binomial.proportion(hits, trials, alternative)
        test = binomtest(hits, trials, 0.5, alternative)
        assert one["p"] == pytest.approx(test.pvalue, rel=1e-10, abs=1e-300), (hits, trials)
        assert one["p"] == pytest.approx(ours.p, rel=1e-10, abs=1e-300), (hits, trials)
        assert [one["low"], one["high"]] == pytest.approx([ours.low, ours.high], abs=1e-12), (hits, trials)
        assert one["rate"] == hits / trials


def test_without_trials_nothing_is_known(run: Run) -> None:
    found = run("() => [proportion(0, 0), proportion(0, 0, true)]", None)
    for one in found:
        assert math.isnan(one.pop("rate"))
        assert one == {"low": 0, "high": 1, "p": 1}


def test_the_fewest_hits_and_the_power_are_scipys_and_pythons(run: Run) -> None:
    trials, rates, levels = [*range(40), 100, 225, 2000], [0, 0.3, 0.5, 0.6, 0.75, 0.99, 1], [0.05, 0.01, 2**-6]
    fewest = run("([n, levels]) => n.map((n) => levels.map((level) => fewestHits(n, level)))", [trials, levels])
    assert fewest == [[binomial.fewest_hits(n, level) for level in levels] for n in trials]
    assert run("(n) => n.map((n) => fewestHits(n))", trials) == [row[0] for row in fewest], "the usual level is 5 %"
    found = run("([n, rates]) => n.map((n) => rates.map((rate) => power(n, rate)))", [trials, rates])
    for n, row, (k, *_) in zip(trials, found, fewest, strict=True):
        assert row == pytest.approx([binomial.power(n, rate) for rate in rates], rel=1e-10, abs=1e-300), n
        assert k is None or row == pytest.approx(binom.sf(k - 1, n, rates), rel=1e-10, abs=1e-300), n
    assert run("() => power(16, 0.75, 0.01)", None) == pytest.approx(binomial.power(16, 0.75, 0.01), rel=1e-12)


def test_scores_are_pythons(run: Run) -> None:
    """Of random data with every outcome: finite scores, a group that never lost, one that never met the rest."""
    rng = np.random.default_rng(1)
    data = [rng.integers(0, most, (n, n)).tolist() for n in range(2, 7) for most in (2, 3, 12) for _ in range(5)]
    data += [CHAIN, [[0, 999_999, 0], [1, 0, 999_999], [0, 1, 0]], rng.integers(1, 30, (10, 10)).tolist()]
    outcomes = set()
    for wins, found in zip(data, run("(all) => all.map(bradleyTerry)", data), strict=True):
        ours = bradley_terry(wins)
        outcomes.add((ours.scores is None, ours.never_met))
        assert found["neverMet"] == ours.never_met, wins
        assert found["separated"] == (ours.separated and [list(group) for group in ours.separated]), wins
        for mine, one in zip(ours.scores or (), found["scores"] or (), strict=True):
            values = [one["value"], one["low"], one["high"]]
            assert values == pytest.approx([mine.value, mine.low, mine.high], abs=1e-8), wins
    assert outcomes == {(False, False), (True, False), (True, True)}


def test_digests_are_those_of_hashlib(run: Run) -> None:
    """Around the borders of blocks, where the length moves to a block of its own, and beyond ASCII."""
    texts = [length * "x" for length in (*range(130), 247, 248, 255, 256, 1000, 65_536)]
    texts += ["é", "ä" * 28, "目が見える", "👁️ 🧑‍🔬", "\0\n\r\u2028", "€" * 18 + "xy", '{\n  "person": "Зоя"']
    assert run("(texts) => texts.map(sha256)", texts) == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
