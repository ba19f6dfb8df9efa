"""A network with one hidden layer, learned by scikit-learn and kept as its weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from vecstore.errors import DataError
from vecstore.probes.choice import ChosenProbe, Target, positive_numbers
from vecstore.probes.layout import OUT_OF_FOLD, Array, Layout
from vecstore.records import DoubleArray

ALPHAS = (0.01, 1.0)
EPOCHS = (2, 5, 10, 20, 40)
STEPS = 3000  # of the optimiser, beyond which no longer run is tried
SMALL = 1 << 18  # values of a feature matrix up to which float64 costs nothing worth saving


class MLPProbe(ChosenProbe):
    """A network with one hidden layer of rectified units over standardised vectors: scikit-learn's `MLPClassifier`.

    Parameters
    ----------
    hidden : int
        Units of the hidden layer.
    alphas : sequence of float, optional
        Penalties to choose from, as scikit-learn's `alpha`; 0.01 and 1 by default.
    epochs : sequence of int, optional
        Numbers of passes over the rows to choose from; 2 to 40 by default, fewer where there are many rows. One run
        of learning gives all of them.
    batch_size : int
        Rows per step of the optimiser.
    rate : float
        Length of its first steps. On vectors of 1,000 features 0.002 is as good as scikit-learn's 0.001, in half the
        passes.
    folds : int
        At most; fewer when the rarest class is in fewer groups.
    seed : int
        Of the folds, of the first weights and of the order of rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    kind_ : {"binary", "multi-class", "multi-label"}
    alpha_ : float
    epochs_ : int
        Chosen: of those within 0.001 of the best mean AUC the setting with the least squared error.
    alphas_ : ndarray of shape (n_alphas,), float64
    runs_ : ndarray of shape (n_epochs,), int64
    cv_auc_ : ndarray of shape (n_alphas * n_epochs,), float64
        Mean over folds of the AUC on the fold left out; all epochs of the first alpha come first.
    hidden_ : ndarray of shape (n_networks, d, hidden), float64
    hidden_bias_ : ndarray of shape (n_networks, hidden), float64
    output_ : ndarray of shape (n_networks, hidden, n_columns), float64
    output_bias_ : ndarray of shape (n_networks, n_columns), float64
        Weights, for vectors as given: the standardisation is folded in. One network gives all columns; where some
        labels of several are unknown, there is one per label.
    oof_ : ndarray of shape (n, n_classes), float64
        Out-of-fold probabilities; for each fold in the setting that is best on the other folds, so no row has a say
        in how it is scored itself.
    folds_ : ndarray of shape (n,), int64

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> MLPProbe(folds=3).fit(X, X[:, 0] > 0).predict(X[:3])
    array([ True, False, False])
    """

    layout = Layout(
        {
            "alphas_": Array("alphas"),
            "runs_": Array("runs", dtype="int64"),
            "cv_auc_": Array("settings"),
            "hidden_": Array("networks", "features", "units", finite=True),
            "hidden_bias_": Array("networks", "units", finite=True),
            "output_": Array("networks", "units", "columns", finite=True),
            "output_bias_": Array("networks", "columns", finite=True),
            **OUT_OF_FOLD,
        },
        ("alpha_", "epochs_"),
    )

    def __init__(
        self,
        hidden: int = 64,
        alphas: Sequence[float] | None = None,
        epochs: Sequence[int] | None = None,
        batch_size: int = 64,
        rate: float = 0.002,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.alphas = alphas
        self.epochs = epochs
        self.batch_size = batch_size
        self.rate = rate
        self.folds = folds
        self.seed = seed

    def fault(self) -> str:
        """What is wrong with arrays of the right shapes, or nothing."""
        outputs = self.output_.shape[0] * self.output_.shape[2]
        wanted = 1 if self.kind_ == "binary" else len(self.classes_)
        return "" if outputs == wanted else f"output_ gives {outputs} columns, not {wanted}"

    def _settings(self, n: int) -> list[tuple[float, int]]:
        alphas = ALPHAS if self.alphas is None else self.alphas
        epochs = EPOCHS if self.epochs is None else self.epochs
        positive_numbers({"hidden": self.hidden, "batch_size": self.batch_size, "rate": self.rate})
        positive_numbers({"alphas": alphas, "epochs": epochs})
        if min(np.atleast_1d(epochs)) < 1:
            raise DataError(f"epochs={epochs!r}", expected="whole numbers from 1", do="leave it out for the default")
        self.alphas_ = np.unique(np.asarray(alphas, np.float64))
        runs = np.unique(np.asarray(epochs).astype(np.int64))
        if self.epochs is None:
            runs = runs[runs <= max(STEPS * self.batch_size // n, runs[0])]
        self.runs_ = runs
        return [(float(alpha), int(count)) for alpha in self.alphas_ for count in runs]

    def _features(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Standardised; of a large matrix in float32. What rounding leaves of a constant column is no spread."""
        center = X.mean(axis=0, dtype=np.float64)
        square = sum(((X[i : i + 4096] - center) ** 2).sum(axis=0) for i in range(0, len(X), 4096)) / len(X)
        flat = square <= (10 * np.finfo(X.dtype).eps * np.abs(center)) ** 2
        self._center, self._spread = center, np.where(flat | (square == 0), np.inf, np.sqrt(square))
        features = np.empty(X.shape, np.float64 if X.size <= SMALL else np.float32)
        for i in range(0, len(X), 4096):
            features[i : i + 4096] = (X[i : i + 4096] - center) / self._spread
        return features

    def _chances(self, X: npt.NDArray[Any], target: Target, held: npt.NDArray[Any]) -> Iterator[DoubleArray]:
        for alpha in self.alphas_:
            run = _Run(self, alpha, X, target)
            for epochs in self.runs_:
                yield run.until(int(epochs)).chances(held)

    def _learn(self, features: npt.NDArray[Any], targets: Sequence[Target], setting: tuple[float, int]) -> None:
        self.alpha_, self.epochs_ = setting
        runs = [_Run(self, self.alpha_, features[t.known], t).until(self.epochs_) for t in targets]
        first, last = [np.stack([np.asarray(run.network.coefs_[i], np.float64) for run in runs]) for i in (0, 1)]
        bias, self.output_bias_ = [
            np.stack([np.asarray(run.network.intercepts_[i], np.float64) for run in runs]) for i in (0, 1)
        ]
        self.hidden_, self.output_ = first / self._spread[:, None], last
        self.hidden_bias_ = bias - self._center @ self.hidden_
        del self._center, self._spread

    def _predicted(self, X: npt.NDArray[Any]) -> DoubleArray:
        layers = zip(self.hidden_, self.hidden_bias_, self.output_, self.output_bias_, strict=True)
        wide = X.astype(np.float64)
        columns = [np.maximum(wide @ hidden + below, 0) @ output + above for hidden, below, output, above in layers]
        margins = np.hstack(columns)
        return np.asarray(softmax(margins, axis=1) if self.kind_ == "multi-class" else expit(margins))


class _Run:
    """A network on its way: so many passes over the rows so far."""

    def __init__(self, probe: MLPProbe, alpha: float, X: npt.NDArray[Any], target: Target) -> None:
        from sklearn.neural_network import MLPClassifier

        batch = max(1, min(probe.batch_size, len(X)))
        self.network = MLPClassifier(
            (probe.hidden,),
            alpha=alpha,
            batch_size=batch,
            learning_rate_init=probe.rate,
            random_state=np.random.RandomState(probe.seed),  # a number would bring the same order of rows in each pass
        )
        self._X, self._target, self._done = X, target, 0

    def until(self, epochs: int) -> _Run:
        """Learn on, up to so many passes."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Training interrupted by user")
            while self._done < epochs and len(self._X):
                classes = None if self._done else np.arange(self._target.sides)
                try:
                    self.network.partial_fit(self._X, self._target.y, classes=classes)
                except UserWarning:  # scikit-learn would go on with the next pass
                    raise KeyboardInterrupt from None
                self._done += 1
        return self

    def chances(self, X: npt.NDArray[Any]) -> DoubleArray:
        """Outputs on other rows, of shape (n, n_columns); 0.5 where there was nothing to learn from."""
        if not self._done:
            return np.full((len(X), len(self._target.columns)), 0.5)
        found = np.asarray(self.network.predict_proba(X), np.float64)
        return found if len(self._target.columns) == found.shape[1] else found[:, 1:]
