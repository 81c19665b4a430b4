"""Ten thousand blind tests by observers who see nothing: the plan gives nothing away, and guessing passes no more
often than the p-value says.

The browser draws its own random numbers, so each check fails by chance once in a million runs.
"""

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest, chi2, chisquare

from vaelens.report.page import package_file

TESTS, TRIALS = 10_000, 16
RARE = 1e-6
FILES = ("random", "statistics", "plan")
# Plays tests with an observer's strategy: a function of the trial's number that gives "a" or "b".
PLAY = """({ test, tests, count, pairs, kinds, strategy }) => {
  const strategies = {
    coin: () => () => ["a", "b"][Math.floor(2 * Math.random())],
    "always A": () => () => "a",
    "as often A as B": () => {
      const answers = shuffled(Array.from({ length: 2 * count }, (_, i) => "ab"[i % 2]));
      return (i) => answers[i];
    },
  };
  const places = (kind, [i, j]) => [0, 1, 2].map((n) => ({ image: n, region: { left: 10 * i + n, top: j }, kind }));
  const plays = [];
  for (let n = 0; n < tests; n++) {
    const answer = strategies[strategy]();
    const trials = planTrials({ test, count, pairs, kinds, places });
    plays.push(trials.map((trial, i) => {
      const answered = answer(i);
      const x = trial.x === "a" ? 0 : trial.x === "b" ? 1 : 2;
      return [trial.a, trial.b, x, answered === "a" ? 0 : 1, kinds.indexOf(trial.kind), trial.image];
    }));
  }
  return JSON.stringify(plays);
}"""
A, B, X, ANSWER, KIND, IMAGE = range(6)


@pytest.fixture(scope="module")
def play(browser) -> Any:
    """Plays tests; gives an array [tests, trials, 6]: decoders A and B, X (0 is A), the answer, kind, image."""
    page = browser.new_page()
    scripts = "\n".join(package_file(f"blind/{name}.js") for name in FILES)

    def run(test: str = "abx", strategy: str = "coin", tests: int = TESTS, **more: Any) -> np.ndarray:
        given = {"test": test, "tests": tests, "count": TRIALS, "pairs": [[0, 1]], "kinds": ["eye", "random"]} | more
        played = page.evaluate(f"(given) => {{ {scripts}\nreturn ({PLAY})(given) }}", given | {"strategy": strategy})
        return np.array(json.loads(played))

    yield run
    page.close()


def is_even(counts: np.ndarray) -> bool:
    return chisquare(counts).pvalue > RARE


def fits(hits: np.ndarray, trials: int) -> bool:
    """Whether counts of hits are binomial at 1/2: chi-squared over the counts that are expected five times or more."""
    expected = binom.pmf(np.arange(trials + 1), trials, 0.5) * len(hits)
    observed = np.bincount(hits, minlength=trials + 1)
    common = expected >= 5
    observed, expected = (np.append(values[common], values[~common].sum()) for values in (observed, expected))
    return chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1) > RARE


@pytest.fixture(scope="module")
def guessed(play: Any) -> np.ndarray:
    return play()


def passes(hits: np.ndarray, alternative: str) -> int:
    """In how many tests the p-value is at most 5 %."""
    p = np.array([binomtest(count, TRIALS, alternative=alternative).pvalue for count in range(TRIALS + 1)])
    return int((p[hits] <= 0.05).sum())


@pytest.mark.parametrize(
    "strategy",
    ["coin", *(pytest.param(one, marks=pytest.mark.slow) for one in ("always A", "as often A as B"))],
)
def test_guessing_passes_no_more_often_than_the_p_value_says(play: Any, guessed: np.ndarray, strategy: str) -> None:
    found = guessed if strategy == "coin" else play(strategy=strategy)
    hits = (found[..., X] == found[..., ANSWER]).sum(axis=1)
    assert fits(hits, TRIALS)
    passed = passes(hits, "greater")
    size = binom.sf(11, TRIALS, 0.5)  # 12 of 16 are needed: 3.8 %
    low, high = binom.interval(1 - RARE, TESTS, size)
    assert low <= passed <= high, f"{passed} of {TESTS} pass"
    assert passed < 0.05 * TESTS


def test_hits_sides_and_positions_are_even(guessed: np.ndarray) -> None:
    found = guessed
    hits = (found[..., X] == found[..., ANSWER]).sum(axis=0)
    for counts in (hits, TESTS - hits):
        assert is_even(counts), "hits at each position in the test"
    assert is_even(np.bincount(found[..., X].ravel())), "X is A as often as B"
    assert ((found[..., A] == 0).sum(axis=1) == TRIALS // 2).all(), "each decoder is A in half of the trials"
    for column in (A, KIND):
        assert is_even((found[..., column] == 0).sum(axis=0)), "and at no position more often than at another"
    assert is_even(np.bincount(found[..., IMAGE].ravel()))
    together = 2 * found[..., A].ravel() + found[..., X].ravel()
    assert is_even(np.bincount(together)), "which decoder is A says nothing about X"
    shown = np.where(found[..., X] == 0, found[..., A], found[..., B])
    assert is_even(np.bincount((2 * shown[:, :-1] + shown[:, 1:]).ravel())), "nor does the trial before"


@pytest.mark.slow
def test_preferences_of_an_observer_who_sees_nothing(play: Any) -> None:
    found = play(test="better")
    assert found.shape[1] == TRIALS + 2
    real = found[..., A] != found[..., B]
    assert (real.sum(axis=1) == TRIALS).all()
    assert is_even((~real).sum(axis=0)), "where one decoder is shown twice"
    first = np.where(found[..., ANSWER] == 0, found[..., A], found[..., B]) == 0
    hits = (first & real).sum(axis=1)
    assert fits(hits, TRIALS)
    passed = passes(hits, "two-sided")
    low, high = binom.interval(1 - RARE, TESTS, 2 * binom.sf(12, TRIALS, 0.5))
    assert low <= passed <= high
    always = play(test="better", strategy="always A", tests=100)
    real = always[..., A] != always[..., B]
    assert ((always[..., A] == 0) & real).sum(axis=1).tolist() == [TRIALS // 2] * 100, "a side alone decides nothing"


def test_pairs_kinds_and_places_are_balanced(play: Any) -> None:
    pairs = [[0, 1], [0, 2], [1, 2]]
    found = play(tests=50, pairs=pairs, count=17, kinds=["eye", "letters", "random"])
    for one in found:
        low, high = np.minimum(one[:, A], one[:, B]), np.maximum(one[:, A], one[:, B])
        counts = [((low == i) & (high == j)).sum() for i, j in pairs]
        assert sorted(counts) == [5, 6, 6]
        for i, j in pairs:
            of = one[(low == i) & (high == j)]
            assert np.ptp(np.bincount(of[:, KIND], minlength=3)) <= 1
            assert abs((of[:, A] == i).sum() - (of[:, A] == j).sum()) <= 1
            for kind in range(3):
                images = of[of[:, KIND] == kind][:, IMAGE]
                assert len(set(images.tolist())) == len(images), "no place comes twice before all came once"
