"""The four pictures of the front page show what the run has."""

from io import BytesIO

import numpy as np
from PIL import Image

from l3muscle.book.steps import STEPS, step_pictures
from l3muscle.figures import Panel, picture
from l3muscle.study import StudyResults


def pixels(figure) -> np.ndarray:
    stream = BytesIO()
    figure.savefig(stream, dpi=50, facecolor=figure.get_facecolor())
    return np.asarray(Image.open(stream).convert("RGB")).astype(int)


def test_each_step_has_its_picture(finished):
    drawn = step_pictures(StudyResults(finished.store.root))
    assert tuple(drawn) == STEPS
    assert [len(figure.axes) for figure in drawn.values()][::2] == [1, 4]
    for figure in drawn.values():
        image = pixels(figure)
        assert image.shape[1] / image.shape[0] == 4 / 3 and image.std() > 10


def test_a_slice_fills_its_picture_and_keeps_its_shape():
    hu = np.full((60, 200), 50.0)
    circle = (np.arange(60)[:, None] - 30) ** 2 * 4 + (np.arange(200) - 100) ** 2 < 40**2
    image = pixels(picture([Panel(hu, 2.0, {"expert": circle})]))
    rows, columns = np.nonzero(image[..., 0] - image[..., 2] > 100)
    # Pixels twice as high as wide make a round outline of it.
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2
    assert np.ptp(rows) > 0.8 * len(image)
    assert (pixels(picture([Panel(hu[:, :90])])) > 50).all()
