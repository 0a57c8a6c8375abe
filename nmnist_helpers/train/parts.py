"""The recordings that a run learns from, and those that decide which epoch is best."""

import hashlib

import numpy as np

from ..data.dataset import NMNISTDataset
from .settings import Settings

#: By default this share of the training recordings is for validation, but no more than so many.
SHARE, MOST = 1 / 6, 5000
MNIST_SIZE = 60_000


def split(labels: np.ndarray, validation: float | int) -> tuple[np.ndarray, np.ndarray]:
    """Divide a training set into a part to learn from and a part to choose the best epoch on.

    Parameters
    ----------
    labels : int array [N]
        Digits; every digit is divided in the same proportion.
    validation : float or int
        The validation part, a share below 1 or a number of recordings.

    Returns
    -------
    learn, validate : int arrays
        Indices, always the same for the same labels.

    Raises
    ------
    ValueError
        If not every digit fits into both parts.
    """
    digits, counts = np.unique(labels, return_counts=True)
    wanted = _count(len(labels), validation)
    if not len(counts) or counts.min() < 2 or not len(digits) <= wanted <= len(labels) - len(digits):
        raise ValueError(
            f"validation: expected both parts to have a recording of each of {len(digits)} digits,"
            f" found {len(labels)} recordings, {wanted} of them for validation"
        )
    from sklearn.model_selection import train_test_split  # takes a second to import

    learn, validate = train_test_split(np.arange(len(labels)), test_size=wanted, stratify=labels, random_state=0)
    return np.sort(learn), np.sort(validate)


def evenly(count: int, most: int | None) -> np.ndarray:
    """Indices of at most `most` of `count` recordings, taken evenly: datasets are in order of digit."""
    return np.arange(count) if most is None or most >= count else np.arange(most) * count // most


def learn_and_validate(dataset: NMNISTDataset, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the recordings to learn from and to validate on.

    Of all of MNIST, simulated, the first digits are for validation, because real recordings show them (the ids 1 to
    1,100 in small collections): no digit that a recording shows is learned from. Other sets are divided by `split`.

    Raises
    ------
    ValueError
        If there are too few recordings.
    """
    used = evenly(len(dataset), settings.recordings)
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
    """Whether these are the simulated recordings of all of MNIST's training digits."""
    return dataset.source == "simulated" and len(dataset) == MNIST_SIZE and dataset.packed.ids.max() == MNIST_SIZE


def fingerprint(dataset: NMNISTDataset, learn: np.ndarray, validate: np.ndarray) -> str:
    """Which recordings these are, wherever they lie: their digits, numbers and counts of events, in order."""
    digest = hashlib.blake2b(dataset.source.encode(), digest_size=8)
    for part in (learn, validate):
        for column in (dataset.packed.labels, dataset.packed.ids, dataset.packed.counts):
            digest.update(np.ascontiguousarray(column[part]).astype("<i8").tobytes())
        digest.update(b"/")
    return digest.hexdigest()


def _count(size: int, validation: float | int) -> int:
    """Recordings in the validation part; a share counts upwards, as scikit-learn has it."""
    return validation if isinstance(validation, int) else int(np.ceil(validation * size))
