"""What goes wrong in a training is seen, and what is only noise isn't."""

import math

import pytest
from vaelens.finetuning.validation import PATIENCE, WIDENING, Watch

FINE = {"loss": 0.3, "discriminator": 0.7, "real": 0.4, "fake": -0.3, "generator": 0.3}


def test_nan_is_seen_micro_batch_size() -> None:
    for value in (math.nan, math.inf):
        found = Watch().log(7, FINE | {"loss": value})
        assert found is not None
        assert found.good_until == 6
        assert "loss is" in found.reason


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"discriminator": 0.001, "real": 3.0, "fake": -3.0}, "sure of everything"),
        ({"discriminator": 1.0, "real": 1e-5, "fake": 1e-5}, "collapsed"),
    ],
)
def test_a_judge_that_teaches_nothing_is_seen_in_time(values: dict[str, float], said: str) -> None:
    watch = Watch()
    bad = FINE | values
    for n in range(1, PATIENCE):
        assert watch.log(n, bad) is None
    assert watch.log(PATIENCE, FINE) is None, "a good line in between begins the count anew"
    for n in range(1, PATIENCE):
        assert watch.log(100 + n, bad) is None
    found = watch.log(100 + PATIENCE, bad)
    assert found is not None
    assert said in found.reason
    assert found.good_until == 101


def test_without_a_judge_there_is_nothing_to_say_of_it() -> None:
    watch = Watch()
    assert all(watch.log(n, {"loss": 0.1}) is None for n in range(3 * PATIENCE))
    unheard = {"loss": 0.1, "discriminator": 0.0, "real": 3.0, "fake": -3.0}
    assert all(watch.log(n, unheard) is None for n in range(3 * PATIENCE)), "it may win while nobody hears it"


def test_learning_by_heart_is_seen() -> None:
    watch = Watch()
    assert watch.evaluation(0, 20.0, 20.0) is None
    for n in range(1, WIDENING):
        assert watch.evaluation(n, 20 + 0.2 * n, 20 - 0.1 * n) is None
    found = watch.evaluation(WIDENING, 20 + 0.2 * WIDENING, 20 - 0.1 * WIDENING)
    assert found is not None
    assert "by heart" in found.reason
    assert found.good_until == 0


@pytest.mark.parametrize(
    "course",
    [
        [(20 + n, 20 + 0.5 * n) for n in range(9)],  # the gap grows, and held-out images get better
        [(20 - n, 20 - n) for n in range(9)],  # both get worse together
        [(20 + 0.01 * n, 20 - 0.01 * n) for n in range(9)],  # hardly
        [(20 + 0.3 * n, 20 + 0.2 * (n % 2)) for n in range(9)],  # up and down
    ],
)
def test_other_courses_are_left_alone(course: list[tuple[float, float]]) -> None:
    watch = Watch()
    assert all(watch.evaluation(n, *values) is None for n, values in enumerate(course))
