"""The two parts of a training set: the recordings to train on, and those that decide which epoch is best."""

import hashlib

import numpy as np

from ..camera.digits import MNIST_FILES
from ..data.dataset import NMNISTDataset
from .settings import Settings

#: By default, this share of the training recordings is held out for validation, but no more than this number.
SHARE, MOST = 1 / 6, 5000
MNIST_SIZE = MNIST_FILES[True][2]


def split(labels: np.ndarray, validation: float | int) -> tuple[np.ndarray, np.ndarray]:
    """Divide a training set into a part to train on and a part to choose the best epoch with.

    Parameters
    ----------
    labels : int array [N]
        Digits; each digit is divided in the same proportion.
    validation : float or int
        Size of the validation part: a share below 1, or a number of recordings.

    Returns
    -------
    learn, validate : int arrays
        Indices of the two parts; the same labels always give the same parts.

    Raises
    ------
    ValueError
        If one of the parts would lack a digit.
    """
    labels = np.asarray(labels)
    digits, counts = np.unique(labels, return_counts=True)
    wanted = _count(len(labels), validation)
    expected = f"--recordings, --validation: expected both parts to have a recording of each of {len(digits)} digits"
    if not len(counts) or counts.min() < 2 or not len(digits) <= wanted <= len(labels) - len(digits):
        raise ValueError(f"{expected}, found {len(labels)} recordings, {wanted} of them for validation")
    from sklearn.model_selection import train_test_split  # takes a second to import

    learn, validate = train_test_split(np.arange(len(labels)), test_size=wanted, stratify=labels, random_state=0)
    for part in (learn, validate):  # the share of a rare digit may have been rounded to zero
        if (missing := np.setdiff1d(digits, labels[part])).size:
            raise ValueError(f"{expected}, found none of digit {missing[0]} among {len(part)} recordings")
    return np.sort(learn), np.sort(validate)


def evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """Return at most `most` evenly spaced indices of `count` recordings, because datasets are sorted by digit."""
    return np.arange(count) if most is None or most >= count else np.arange(most) * count // most


def learn_and_validate(dataset: NMNISTDataset, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the recordings to train on and of those to validate on.

    If all of MNIST is simulated, its first digits are used for validation, because real recordings show them (small
    collections hold the ids 1 to 1,100). No such digit is then trained on. Other sets are divided by `split`.

    Raises
    ------
    ValueError
        If there are too few recordings.
    """
    used = evenly_spaced(len(dataset), settings.recordings)
    validation = settings.validation
    if validation is None:
        validation = min(_count(len(used), SHARE), MOST)
    if validation == 0:
        return used, used[:0]
    if is_mnist(dataset):
        by_id = used[np.argsort(dataset.packed.ids[used])]
        wanted = _count(len(used), validation)
        if not 1 <= wanted < len(used):
            raise ValueError(f"validation: expected fewer than the {len(used)} recordings, found {wanted}")
        return np.sort(by_id[wanted:]), np.sort(by_id[:wanted])
    learn, validate = split(dataset.labels[used], validation)
    return used[learn], used[validate]


def is_mnist(dataset: NMNISTDataset) -> bool:
    """Return whether the dataset simulates all training digits of MNIST."""
    return dataset.source == "simulated" and len(dataset) == MNIST_SIZE and dataset.packed.ids.max() == MNIST_SIZE


def fingerprint(dataset: NMNISTDataset, learn: np.ndarray, validate: np.ndarray) -> str:
    """Hash the digits, ids and event counts of both parts in order: the same recordings give the same hash anywhere."""
    digest = hashlib.blake2b(dataset.source.encode(), digest_size=8)
    for part in (learn, validate):
        for column in (dataset.packed.labels, dataset.packed.ids, dataset.packed.counts):
            digest.update(np.ascontiguousarray(column[part]).astype("<i8").tobytes())
        digest.update(b"/")
    return digest.hexdigest()


def _count(size: int, validation: float | int) -> int:
    """Return the number of validation recordings; a share is rounded up, as in scikit-learn."""
    return validation if isinstance(validation, int) else int(np.ceil(validation * size))
