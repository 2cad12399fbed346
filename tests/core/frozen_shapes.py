"""An expert's ring of muscle and five masks beside it, drawn by formulas alone."""

import numpy as np

SPACING = (0.9, 1.3)
_ROW, _COLUMN = np.mgrid[0:48, 0:64]
_ANGLE = np.arctan2(_ROW - 24.0, _COLUMN - 32.0)
_RADIUS = np.hypot(_ROW - 24.0, 0.8 * (_COLUMN - 32.0))
HU = 60.0 - 2.5 * _RADIUS + 15.0 * np.sin(7 * _ANGLE) + np.where(np.hypot(_ROW - 31.0, _COLUMN - 32.0) < 5, 400.0, 0.0)
REFERENCE = (_RADIUS > 8.0) & (16.0 + 2.0 * np.cos(3 * _ANGLE) > _RADIUS)
MASKS = {
    "thick": (_RADIUS > 7.0) & (17.5 + 2.0 * np.cos(3 * _ANGLE) > _RADIUS),
    "shifted": np.roll(REFERENCE, (2, -3), axis=(0, 1)),
    "half": REFERENCE & (_COLUMN < 30),
    "speckled": REFERENCE ^ ((_ROW * 7 + _COLUMN * 11) % 37 == 0),
    "at the rim": (_ROW < 3) | (_COLUMN > 60),
    "empty": np.zeros_like(REFERENCE),
}
