"""The playground's controls in a notebook: choose, train, watch, compare."""

import base64
import copy
import html
import io
import threading
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from l3muscle.errors import L3MuscleError
from l3muscle.experiment import PreparedCohort
from l3muscle.figures.style import OUTLINE_STYLE, described
from l3muscle.metrics import dice
from l3muscle.models import FCN
from l3muscle.playground.session import Choice, Playground, outline
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.training import CurvePoint, Fit, TrainingPaused

MARGIN = 15  # pixels about the expert's outline
LABELS = {"n_train": "Training slices n", "learning_rate": "Learning rate"}
STEPS = {"steps": 20, "learning_rate": 0.001, "augmentation": 0.25}  # of the arrows
COLOURS = {"expert": OUTLINE_STYLE["expert"][0], "network": OUTLINE_STYLE["prediction"][0]}


def picture(curve: Sequence[CurvePoint], steps: int, watched: PreparedCohort, mask: np.ndarray | None = None) -> Figure:
    """Losses so far, of `steps` in all, and one test slice with the expert's outline and the network's, (H, W) bool."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    losses, axes = figure.subplots(1, 2)
    for column, label in (("train_loss", "training"), ("validation_loss", "validation")):
        losses.plot([p.step for p in curve], [getattr(p, column) for p in curve], marker=".", label=label)
    losses.set(xlim=(0, steps), xlabel="step", ylabel="loss")
    losses.legend(frameon=False)
    expert, (row, column) = watched.test_masks[0], watched.test_spacing[0]
    axes.imshow(watched.test_hu[0], cmap="gray", vmin=-150, vmax=250, aspect=row / column)
    title = f"{watched.test_ids[0]}, test slice"
    outlines = {"expert": expert}
    if mask is not None:
        outlines["network"], title = mask, f"{title}: Dice {dice(mask, expert):.3f}"
    for name, outlined in outlines.items():
        axes.plot([], [], color=COLOURS[name], label=name)
        if outlined.any():
            axes.contour(outlined, [0.5], colors=COLOURS[name], linewidths=1)
    rows, columns = np.nonzero(expert)
    axes.set_xlim(columns.min() - MARGIN, columns.max() + MARGIN)
    axes.set_ylim(rows.max() + MARGIN, rows.min() - MARGIN)
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small", loc="lower left")
    axes.set_axis_off()
    return figure


class Panel(widgets.VBox):
    """Controls, a picture that grows, and a table of the session's runs.

    A training has a thread of its own, so that *Stop* is heard meanwhile; there is one at a time.

    Parameters
    ----------
    playground : Playground
    train : callable
        `train(choice, show)` fits a network, and calls `show(point, network)` at each validation.
    choice : Choice
        What the controls show at first.
    """

    def __init__(self, playground: Playground, train: Callable[..., Fit], choice: Choice) -> None:
        playground.study_with(choice)  # raises, where the controls would quietly show another choice
        self.playground, self.train, self.rows = playground, train, []
        self._stop = threading.Event()
        wide = widgets.Layout(width="24em")
        described = {"style": {"description_width": "13em"}, "layout": wide}
        slices = [(patient, index) for index, patient in enumerate(playground.prepared.test_ids)]
        self.controls = self._make_controls(choice, described)
        self.watch = widgets.Dropdown(description="Slice to watch", options=slices, **described)
        self.train_button = widgets.Button(description="Train", icon="play", button_style="primary")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.progress = widgets.IntProgress(description="Progress", **described)
        self.status, self.table = widgets.HTML(layout=wide), widgets.HTML()
        self.picture = widgets.HTML(layout=widgets.Layout(flex="1 1 34em"))
        self._tell(playground.about)
        self._draw(picture([], choice.steps, playground.watched()))
        self.watch.observe(lambda at: self._draw(picture([], choice.steps, playground.watched(at.new))), names="value")
        self.train_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self._stop.set())
        buttons = widgets.HBox([self.train_button, self.stop_button])
        left = widgets.VBox([*self.controls.values(), self.watch, buttons, self.progress, self.status])
        super().__init__([widgets.Box([left, self.picture], layout=widgets.Layout(flex_flow="row wrap")), self.table])

    def _make_controls(self, choice: Choice, described: dict) -> dict[str, widgets.Widget]:
        # The browser's own fields: a slider of ipywidgets has no name for a screen reader.
        made = {"source_task": widgets.Dropdown(description="Source task", options=list(SOURCE_TASKS), **described)}
        for name, (low, high) in self.playground.allowed.items():
            kind = widgets.BoundedIntText if isinstance(low, int) else widgets.BoundedFloatText
            label = f"{LABELS.get(name, name.capitalize())}, {low:g}–{high:g}"
            made[name] = kind(description=label, min=low, max=high, step=STEPS.get(name, 1), **described)
        for name, control in made.items():
            control.value = getattr(choice, name)
        return made

    def start(self) -> None:
        """Train with what the controls show, in `thread`."""
        choice = Choice(**{name: control.value for name, control in self.controls.items()})
        watched = self.playground.watched(self.watch.value)
        self._stop.clear()
        self.progress.max, self.progress.value = choice.steps, 0
        self.train_button.disabled, self.stop_button.disabled = True, False
        self._tell("Training; a source task that is not stored is learned first.")
        self.thread = threading.Thread(target=self._train, args=(choice, watched), daemon=True)
        self.thread.start()

    def comparison(self) -> pd.DataFrame:
        """The session's runs, numbered from 1, as `Playground.outcome` has them."""
        return pd.DataFrame(self.rows, index=pd.RangeIndex(1, len(self.rows) + 1, name="run"))

    def _train(self, choice: Choice, watched: PreparedCohort) -> None:
        curve: list[CurvePoint] = []
        best: dict[str, Tensor] = {}

        def show(point: CurvePoint, network: FCN) -> None:
            if not curve or point.validation_loss < min(before.validation_loss for before in curve):
                best.update(copy.deepcopy(network.state_dict()))
            curve.append(point)
            self.progress.value = point.step
            self._draw(picture(curve, choice.steps, watched, outline(network, watched, self.playground.device)))
            if self._stop.is_set():
                raise TrainingPaused

        try:
            try:
                ended = self.train(choice, show).stopped
            except TrainingPaused:
                ended = "stopped by hand"
            self.rows.append(self.playground.outcome(choice, best, curve))
            self._show_outcome(ended)
        except Exception as error:  # nobody else would hear of it
            kind = "" if isinstance(error, L3MuscleError) else f"{type(error).__name__}: "
            self._tell(f"Not trained: {kind}{error}")
        finally:
            self.train_button.disabled, self.stop_button.disabled = False, True

    def _show_outcome(self, ended: str) -> None:
        table = self.comparison()
        last = table.iloc[-1]
        reached = f"mean Dice {last['test_dice']:.3f} of the test slices, lowest {last['lowest_dice']:.3f}"
        self._tell(f"Run {len(table)}: {reached}, after {last['steps']} steps ({ended}).")
        plain = dict.fromkeys(("learning_rate", "augmentation"), "{:g}")
        styled = table.rename_axis(index=None, columns="run").style.format(plain, precision=3, na_rep="–")
        styled = styled.highlight_max("test_dice", props="font-weight: bold").set_caption("Runs of this session")
        self.table.value = f'<div class="jp-RenderedHTMLCommon" style="overflow-x: auto">{styled.to_html()}</div>'

    def _tell(self, text: str) -> None:
        self.status.value = f'<div role="status">{html.escape(text)}</div>'

    def _draw(self, figure: Figure) -> None:
        stream = io.BytesIO()
        figure.savefig(stream, format="svg")
        words = html.escape(described(figure))
        drawn = base64.b64encode(stream.getvalue()).decode()
        self.picture.value = f'<img alt="{words}" src="data:image/svg+xml;base64,{drawn}">'
