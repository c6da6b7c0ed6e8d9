"""The pictures of the dataset gap: honest splits in the paper's proportions, and CIFAR-10's files read safely."""

import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.dataset_gap import cifar
from experiments.dataset_gap.pictures import DIGIT_NAMES, augmented, digits_by_class, load_digits
from experiments.dataset_gap.recipe import DIGITS, Augmentation

from w2sd_video.errors import UserError


def rows(pictures: torch.Tensor) -> list[bytes]:
    return [picture.numpy().tobytes() for picture in pictures]


@pytest.fixture(scope="module")
def digits():
    return load_digits(DIGITS.majority, DIGITS.minority)


def test_the_sides_have_the_papers_proportions_and_nested_sets(digits):
    sides = {side: digits.seen.of_side(side) for side in ("weak", "strong", "ideal")}
    counts = {side: (len(some.majority), len(some.minority)) for side, some in sides.items()}
    assert counts == {"weak": (140, 14), "strong": (140, 70), "ideal": (140, 140)}  # 10:1, 2:1, 1:1
    weak, strong, ideal = (set(rows(sides[side].minority)) for side in sides)
    assert weak < strong < ideal


@pytest.mark.parametrize("kind", ["majority", "minority", "others"])
def test_nothing_held_out_is_trained_on(digits, kind):
    seen, unseen = (rows(getattr(part, kind)) for part in (digits.seen, digits.unseen))
    # By place in the data set no picture is in both; two pairs of scans happening to be alike would show here.
    assert not set(seen) & set(unseen)
    assert len(unseen) >= 34


def test_each_picture_shows_its_class(digits):
    by_class = digits_by_class()
    for kind, name in (("majority", "two"), ("minority", "eight")):
        own = set(rows(by_class[name]))
        for part in (digits.seen, digits.unseen):
            assert set(rows(getattr(part, kind))) <= own
            assert not set(rows(part.others)) & own


def test_the_balanced_reference_has_as_many_of_each_class(digits):
    halves = digits.unseen.halves()
    assert len(halves.majority) == len(halves.minority) == 34


def test_the_two_classes_are_the_closest_that_can_be_told_apart():
    """The rule by which twos and eights were chosen: of the pairs that their nearest seen neighbour names rightly for
    all held-out pictures, and for all seen ones left out in turn, the pair of the nearest means.
    """
    by_class = {name: pictures.flatten(1).double() for name, pictures in digits_by_class().items()}
    number = {name: torch.arange(1, len(pictures) + 1) for name, pictures in by_class.items()}
    seen = {name: by_class[name][number[name] % 5 != 0][:140] for name in DIGIT_NAMES}
    unseen = {name: by_class[name][number[name] % 5 == 0] for name in DIGIT_NAMES}

    def told_apart(one: str, other: str) -> bool:
        for own, foreign in ((one, other), (other, one)):
            inside = torch.cdist(seen[own], seen[own])
            inside.fill_diagonal_(torch.inf)
            if (inside.amin(1) >= torch.cdist(seen[own], seen[foreign]).amin(1)).any():
                return False
            if (torch.cdist(unseen[own], seen[own]).amin(1) >= torch.cdist(unseen[own], seen[foreign]).amin(1)).any():
                return False
        return True

    pairs = sorted(
        itertools.combinations(DIGIT_NAMES, 2), key=lambda pair: (seen[pair[0]].mean(0) - seen[pair[1]].mean(0)).norm()
    )
    assert next(pair for pair in pairs if told_apart(*pair)) == ("two", "eight")
    assert len(by_class["two"]) > len(by_class["eight"]), "the majority is the class with more pictures"


def test_moving_by_nothing_changes_nothing_and_mirroring_mirrors_about_half():
    pictures = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(augmented(pictures, Augmentation(), generator), pictures)
    mirrored = augmented(pictures, Augmentation(mirror=True), generator)
    flipped = (mirrored == pictures.flip(3)).flatten(1).all(1)
    assert (flipped | (mirrored == pictures).flatten(1).all(1)).all()
    assert 0.4 < flipped.double().mean() < 0.6  # 4 standard deviations of a fair coin


def test_a_moved_picture_stays_in_range_and_near_itself(digits):
    pictures = digits.seen.both
    moved = augmented(pictures, DIGITS.augmentation, torch.Generator().manual_seed(0))
    assert moved.shape == pictures.shape and moved.min() >= -1 and moved.max() <= 1
    nearest = torch.cdist(moved.flatten(1), pictures.flatten(1)).argmin(dim=1)
    assert (nearest == torch.arange(len(pictures))).double().mean() > 0.95, "moved less than pictures differ"


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


def batch_of(count: int, seed: int) -> dict:
    random = np.random.default_rng(seed)
    labels = [n % 10 for n in range(count)]
    return {
        b"batch_label": b"a batch",
        b"labels": labels,
        b"data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [b"some.png"] * count,
    }


def write_cifar(folder: Path, count: int = 100) -> None:
    for n, name in enumerate((*cifar.SEEN, *cifar.UNSEEN)):
        (folder / name).write_bytes(pickle.dumps(batch_of(count, n), protocol=2))


def test_a_batch_is_read_as_pickle_reads_it(tmp_path):
    write_cifar(tmp_path)
    pictures, labels = cifar.read_batch(tmp_path / "data_batch_3")
    plain = pickle.loads((tmp_path / "data_batch_3").read_bytes(), encoding="bytes")
    expected = torch.from_numpy(plain[b"data"].reshape(-1, 3, 32, 32).astype("float32")) / 127.5 - 1
    assert torch.equal(pictures, expected)
    assert labels.tolist() == plain[b"labels"]


def test_a_batch_as_python_2_wrote_it_is_read(tmp_path):
    """The published files are of protocol 2 with byte strings (opcode U), which Python 3 cannot write."""
    raw = bytes(range(256)) * 12
    body = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
    )
    body += b"\x87Rq\x04(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNN"
    body += (
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + raw + b"tbU\x06labelsq\x07]q\x08K\x07au."
    )
    (tmp_path / "data_batch_1").write_bytes(body)
    pictures, labels = cifar.read_batch(tmp_path / "data_batch_1")
    assert labels.tolist() == [7]
    assert torch.equal(((pictures + 1) * 127.5).round().flatten().to(torch.uint8), torch.tensor(list(raw)).byte())


def test_the_papers_classes_are_split_by_the_test_batch(tmp_path):
    write_cifar(tmp_path)
    split = cifar.load_cifar(tmp_path)
    assert [len(split.seen.of_side(side).minority) for side in ("weak", "strong", "ideal")] == [5, 25, 50]
    assert len(split.seen.majority) == 50 and len(split.unseen.majority) == len(split.unseen.minority) == 10
    horse, car = cifar.NAMES.index("horse"), cifar.NAMES.index("automobile")
    pictures, labels = cifar.read_batch(tmp_path / "data_batch_1")
    assert torch.equal(split.seen.majority[:10], pictures[labels == horse])
    assert torch.equal(split.seen.minority[:10], pictures[labels == car])
    assert len(split.unseen.others) == 80


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, protocol):
    write_cifar(tmp_path)
    target = tmp_path / "pwned"
    raw = pickle.dumps({b"labels": [], b"data": Malicious(target)}, protocol=protocol)
    (tmp_path / "data_batch_2").write_bytes(raw)
    with pytest.raises(UserError, match=r"data_batch_2 is no batch of CIFAR-10 \(it asks for \w+\.mkdir"):
        cifar.load_cifar(tmp_path)
    assert not target.exists()
    pickle.loads(raw)  # what an open unpickler would have done
    assert target.exists()


@pytest.mark.parametrize(
    "data",
    [
        np.array([object()], dtype=object),
        np.zeros((4, 3072)),
        np.zeros((4, 3071), np.uint8),
        np.float64(1.0),
        "text",
        None,
    ],
)
def test_arrays_of_anything_but_pictures_are_refused(tmp_path, data):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": data, b"labels": [0, 1, 2, 3]}, protocol=2))
    with pytest.raises(UserError, match="is no batch of CIFAR-10"):
        cifar.read_batch(tmp_path / "data_batch_1")


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 10], [0, 1, 2, -1], [0, 1, 2, "cat"], None])
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": labels}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(UserError, match="is no batch of CIFAR-10"):
        cifar.read_batch(tmp_path / "data_batch_1")


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        cifar.load_cifar(tmp_path / "nowhere")
    with pytest.raises(UserError, match="data_batch_1 cannot be read"):
        cifar.load_cifar(tmp_path)
    write_cifar(tmp_path)
    whole = (tmp_path / "test_batch").read_bytes()
    (tmp_path / "test_batch").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="test_batch is no batch of CIFAR-10"):
        cifar.load_cifar(tmp_path)
    write_cifar(tmp_path, count=15)
    with pytest.raises(UserError, match="at least 10 of each"):
        cifar.load_cifar(tmp_path)
