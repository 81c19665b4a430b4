"""The order of training images, their crops, and the held-out set."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from support.training import folder
from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.presets import PRESETS
from vaelens.finetuning.data import batches as data_module
from vaelens.finetuning.data.batches import TrainingImages, TrainingOrder
from vaelens.finetuning.data.held_out import hold_out, without
from vaelens.finetuning.data.training_sample import TrainingSample
from vaelens.finetuning.recipe_files import find_recipe
from vaelens.images.crops import Crops, random_square
from vaelens.images.datasets import Dataset, open_dataset
from vaelens.images.drawing import Box
from vaelens.images.reading import DecodedImage, decode_bytes

DATA = find_recipe("tiny-kl-f8", {"data.size": 24}).data


@pytest.fixture
def eight(tmp_path: Path) -> Dataset:
    return open_dataset(folder(tmp_path / "eight", 8))


def test_every_image_once_an_epoch_and_each_epoch_anew() -> None:
    order = TrainingOrder([7], [1.0], seed=3)
    epochs = [[order.at(e * 7 + n) for n in range(7)] for e in range(3)]
    for e, seen in enumerate(epochs):
        assert sorted(one.index for one in seen) == list(range(7))
        assert {one.epoch for one in seen} == {e}
    assert len({tuple(one.index for one in seen) for seen in epochs}) == 3
    assert [TrainingOrder([7], [1.0], seed=3).at(n) for n in range(20)] == [order.at(n) for n in range(20)]
    assert [TrainingOrder([7], [1.0], seed=4).at(n) for n in range(7)] != epochs[0]


def test_sources_are_mixed_by_their_weights_and_each_seen_whole() -> None:
    order = TrainingOrder([5, 50], [3, 1], seed=0)
    seen = [order.at(n) for n in range(400)]
    assert Counter(one.source for one in seen) == {0: 300, 1: 100}
    for start in range(0, 400, 4):
        assert Counter(one.source for one in seen[start : start + 4]) == {0: 3, 1: 1}
    first = [one.index for one in seen if one.source == 0]
    assert all(sorted(first[i : i + 5]) == list(range(5)) for i in range(0, 300, 5))
    assert Counter(TrainingOrder([9, 9], [1, 1], 0).at(n).source for n in range(10)) == {0: 5, 1: 5}
    for weights in ([1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(UsageError, match="above 0"):
            TrainingOrder([5, 5], weights, 0)
    with pytest.raises(UsageError, match="1/1000"):
        TrainingOrder([5, 5], [1.0, 0.0001], 0)
    odd = TrainingOrder([5, 5, 5], [0.7, 0.2, 0.13], 0)  # a long pattern
    assert Counter(odd.at(n).source for n in range(1030)) == {0: 700, 1: 200, 2: 130}


def test_a_sample_is_a_function_of_its_number(eight: Dataset) -> None:
    one, two = (TrainingImages([eight], [1.0], DATA, seed=5) for _ in range(2))
    for number in (0, 7, 30):
        assert np.array_equal(one.sample(number).pixels, two.sample(number).pixels)
    again = [one.sample(n).pixels for n in range(8)], [one.sample(n + 8).pixels for n in range(8)]
    assert not any(np.array_equal(a, b) for a in again[0] for b in again[1]), "another crop each epoch"
    ahead = list(two.prefetch(iter([range(4), range(4, 8)])))
    assert [batch.numbers for batch in ahead] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert ahead[0].image.shape == (4, 3, 24, 24)
    assert float(ahead[0].image.max()) <= 1


def test_images_are_decoded_once_while_there_is_room(eight: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(data: bytes, name: str) -> DecodedImage:
        read.append(name)
        return decode_bytes(data, name)

    monkeypatch.setattr(data_module, "decode_bytes", counted)

    def samples(room: int) -> tuple[list[bytes], int]:
        read.clear()
        monkeypatch.setattr(data_module, "CACHE_BYTES", room)
        images = TrainingImages([eight], [1.0], DATA, seed=5)
        return [images.sample(n).pixels.tobytes() for n in range(24)], len(read)

    one = 40 * 44 * 3
    (none, first), (some, second), (every, third) = samples(0), samples(3 * one), samples(8 * one)
    assert (first, second, third) == (24, 3 + 5 * 3, 8)
    assert none == some == every


def test_unreadable_images_are_replaced_and_listed(tmp_path: Path) -> None:
    path = folder(tmp_path / "some", 4)
    (path / "02.png").write_bytes((path / "02.png").read_bytes()[:60])
    (path / "9-empty.png").touch()
    dataset = open_dataset(path, skip_bad=True)
    images = TrainingImages([dataset], [1.0], DATA, seed=0)
    ids = [images.sample(n).id for n in range(20)]
    assert set(ids) == {"00.png", "01.png", "03.png"}
    assert {name.rpartition(": ")[2] for name in images.unreadable} == {"02.png", "9-empty.png"}
    assert [TrainingImages([dataset], [1.0], DATA, seed=0).sample(n).id for n in range(10, 20)] == ids[10:]
    for name in ("00.png", "01.png", "03.png"):
        (path / name).write_bytes(b"no image")
    with pytest.raises(BadInputError, match="none of its 5 images can be read"):
        TrainingImages([open_dataset(path, skip_bad=True)], [1.0], DATA, seed=0).sample(0)


def test_a_whole_square_is_the_area_average() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    square, boxes = random_square(pixels, [Box("eye", 4, 8, 12, 16)], Crops(24, (1, 1), 0, 0), np.random.default_rng(0))
    by_hand = pixels.reshape(24, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(square - by_hand).max() <= 1  # Pillow rounds after each direction
    assert boxes == (Box("eye", 2, 4, 6, 8),)


def test_a_whole_crop_is_always_the_same() -> None:
    """What --cache rests on, also for images that aren't square."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    squares = [random_square(pixels, [], Crops(40, (1, 1), 0, 0), np.random.default_rng(n))[0] for n in range(4)]
    assert all(np.array_equal(square, pixels[:, 15:55]) for square in squares)


def test_boxes_follow_the_crop_and_the_mirror() -> None:
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[20:30, 40:60] = 255
    found = 0
    for seed in range(40):
        how = Crops(30, (0.4, 0.9), 1.0 if seed % 2 else 0.0, 0.0)
        square, boxes = random_square(pixels, [Box("R", 40, 20, 60, 30)], how, np.random.default_rng(seed))
        if boxes:
            rows, columns = np.nonzero(square[..., 0] > 127)
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(edges) - (boxes[0].left, boxes[0].top, boxes[0].right, boxes[0].bottom)).max() <= 1
            found += 1
    assert 10 < found < 40, "some boxes are cut away"


def test_small_images_are_enlarged() -> None:
    pixels = np.full((5, 7, 3), 99, dtype=np.uint8)
    square, _ = random_square(pixels, [], Crops(24, (0.5, 1), 0, 0), np.random.default_rng(0))
    assert square.shape == (24, 24, 3)
    assert set(square.ravel()) == {99}


def test_only_readable_images_are_held_out(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", 8)
    names = sorted(path.name for path in place.iterdir())
    for name in names[:5]:
        (place / name).write_bytes(f"{name} is no image".encode())
    dataset = open_dataset(place, skip_bad=True)
    for seed in range(4):  # by chance, one of the three would be chosen each time in 1 of 28 cases
        (rest,), held_out = hold_out([dataset], 2, seed=seed)
        assert {item.id for item in held_out.items} < set(names[5:])
        assert len(rest.items) == 6
    with pytest.raises(UsageError, match="only 3 of its images can be read"):
        hold_out([dataset], 3, seed=0)


def test_images_are_held_out_by_content(tmp_path: Path) -> None:
    a, b = open_dataset(folder(tmp_path / "a", 8)), open_dataset(folder(tmp_path / "b", 12, first=4))  # 4 to 7 in both
    sources, held_out = hold_out([a, b], 6, seed=0)
    contents = {item.sha256 for item in held_out.items}
    assert len(held_out.items) == 6
    assert not any(item.sha256 in contents for source in sources for item in source.items)
    assert all(held_out.read(item) for item in held_out.items)
    assert {item.sha256 for item in hold_out([a, b], 6, seed=1)[1].items} != contents
    with pytest.raises(UsageError, match="held out"):
        hold_out([a], 5, seed=0)
    rest, copies = without([a], b)
    assert (copies, len(rest[0].items)) == (4, 4)
    with pytest.raises(UsageError, match="are in"):
        without([a], a)
    some = list(TrainingSample([a, b], 5, seed=0).read(PRESETS["small"]))
    assert [chunk.items[0].id[0] for chunk in some] == ["0"] * 3 + ["1"] * 2
