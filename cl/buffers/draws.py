"""Draw laws: which of the stored records are replayed."""

import numpy as np


def uniform(stored: np.ndarray, labels: np.ndarray, n: int, stream: np.random.Generator) -> np.ndarray:
    """min(n, stored) different slots, every set of them equally likely.

    stored: the occupied slots; labels: the label in every slot, occupied or not (not used here).
    """
    return stored[stream.choice(len(stored), min(n, len(stored)), replace=False, shuffle=False)]


def class_balanced(stored: np.ndarray, labels: np.ndarray, n: int, stream: np.random.Generator) -> np.ndarray:
    """min(n, stored) different slots: each time a class uniformly, then a record of it uniformly.

    A class of which everything is drawn is left out from there on.
    """
    left = [stored[labels[stored] == label].tolist() for label in np.unique(labels[stored])]
    drawn = []
    while left and len(drawn) < n:
        members = left[stream.integers(len(left))]
        drawn.append(members.pop(stream.integers(len(members))))
        if not members:
            left.remove(members)
    return np.array(drawn, dtype=np.int64)


def class_balanced_weights(labels: np.ndarray, drawn_labels: np.ndarray) -> np.ndarray:
    """For each record drawn, its probability under `uniform` over that under `class_balanced`, for a draw of one.

    labels: of all stored records; drawn_labels: of those drawn.
    """
    classes, counts = np.unique(labels, return_counts=True)
    return len(classes) * counts[np.searchsorted(classes, drawn_labels)] / len(labels)
